// Which turns belong together: a turn, and those that it took the place of. No document in here.

/** Turns by the turn that replaced them. */
export function branches(turns) {
  const found = new Map();
  for (const turn of turns) {
    if (!turn.replacedBy) continue;
    if (!found.has(turn.replacedBy)) found.set(turn.replacedBy, []);
    found.get(turn.replacedBy).push(turn);
  }
  return found;
}

/**
 * The versions of a turn, the oldest first and itself last. Each has the turns that followed it
 * then, which were hidden together with it.
 */
export function versionsOf(turn, found) {
  const versions = [{ turn, followers: [] }];
  for (let branch = found.get(turn.turn); branch; branch = found.get(branch[0].turn)) {
    versions.unshift({ turn: branch[0], followers: branch.slice(1) });
  }
  return versions;
}
