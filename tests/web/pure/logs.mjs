// Logs of sessions as a gateway may tell them, and the ways in which a client may hear of one.

const ALPHABET = [..."가나 ab🙌\n漢"];

/** A die that throws the same for the same seed: an integer below `sides`. */
export function dice(seed) {
  let state = (seed * 2654435761 + 12345) >>> 0;
  return (sides) => {
    // xorshift32
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state % sides;
  };
}

function words(roll, length) {
  return Array.from({ length }, () => ALPHABET[roll(ALPHABET.length)]).join("");
}

/** Make up a session: its frames, and after each what is stored of every turn. */
export function anyLog(roll) {
  const frames = [];
  const turns = [];
  for (let number = 1; number <= 1 + roll(5); number += 1) {
    turns.push(anyTurn(number, turns, frames, roll));
  }
  return { frames, turns };
}

function anyTurn(number, before, frames, roll) {
  const active = before.filter(({ replacedBy }) => replacedBy === null);
  const replaced = active.length && roll(3) === 0 ? active[roll(active.length)] : null;
  const record = { number, replacedBy: null, replacedAt: Infinity, begins: frames.length, attempts: [] };
  const user_message = { message_id: `u${number}`, content: words(roll, 3), created_at: "t" };
  const attempts = 1 + (roll(4) === 0);
  for (let attempt = 1; attempt <= attempts; attempt += 1) {
    const frame = { type: "start", id: `${number}.${attempt}.0`, turn: number, attempt };
    if (replaced) frame.replaces = replaced.number;
    frames.push({ ...frame, message_id: `r${number}`, user_message });
    record.attempts.push({ at: frames.length, attempt });
    record.content = grow(number, attempt, frames, roll);
  }
  for (const hidden of active.filter((turn) => replaced && turn.number >= replaced.number)) {
    Object.assign(hidden, { replacedBy: number, replacedAt: record.begins });
  }
  const finish = ["stop", "length", "cancelled", "error", "interrupted"][roll(5)];
  frames.push(lastOf(number, attempts, finish));
  return Object.assign(record, { finish, user_message, ends: frames.length });
}

function grow(number, attempt, frames, roll) {
  let text = "";
  for (let piece = roll(6); piece > 0; piece -= 1) {
    const content = words(roll, 1 + roll(4));
    text += content;
    const token_count = [...text].length;
    frames.push({ type: "token", id: `${number}.${attempt}.${token_count}`, turn: number, content, token_count });
  }
  return text;
}

function lastOf(turn, attempt, finish_reason) {
  const shared = { id: `${turn}.${attempt}.end`, turn, message_id: `r${turn}` };
  if (finish_reason === "error" || finish_reason === "interrupted") {
    const code = finish_reason === "error" ? "upstream_error" : "interrupted";
    return { type: "error", ...shared, code, message: "no", retryable: false };
  }
  const timing = { queue_ms: 0, first_token_ms: 0, duration_ms: 0 };
  return { type: "complete", ...shared, finish_reason, total_tokens: 1, token_usage: null, created_at: "t", timing };
}

/** What `GET …/messages` says when so many frames are in the log. */
export function pageAt({ turns }, length, { isWhole = false, newest = Infinity } = {}) {
  const messages = [];
  let cursor = "0.0.end";
  for (const turn of turns.filter(({ begins }) => begins < length)) {
    const isOver = turn.ends <= length;
    const attempt = turn.attempts.filter(({ at }) => at <= length).at(-1)?.attempt ?? 1;
    cursor = `${turn.number}.${attempt}.${isOver ? "end" : "0"}`;
    const isHidden = turn.replacedAt < length;
    if (isHidden && !isWhole) continue;
    const shared = { turn: turn.number, created_at: "t", token_usage: null };
    if (isHidden) shared.replaced_by = turn.replacedBy;
    messages.push({ ...shared, ...turn.user_message, role: "user", finish_reason: null });
    if (!isOver) continue;
    const reply = { message_id: `r${turn.number}`, role: "assistant", content: turn.content };
    messages.push({ ...shared, ...reply, finish_reason: turn.finish });
  }
  return { messages: messages.slice(-newest), cursor };
}

/** The steps of a client that hears the log in pieces, again, merged, and by pages in between. */
export function* hearing(log, roll) {
  const { frames } = log;
  let at = 0;
  while (at < frames.length) {
    if (roll(4) === 0) {
      // A connection was cut; the next one begins where that one was, or somewhat before.
      at = Math.max(0, at - roll(4));
    }
    if (roll(6) === 0) {
      const page = pageAt(log, roll(frames.length + 1), { isWhole: roll(2) === 0, newest: 1 + roll(6) });
      yield (conversation) => conversation.load(page);
    }
    if (roll(8) === 0) {
      // The cursor was not honoured: the page is all there is, and reading goes on from there.
      const length = at + roll(frames.length - at + 1);
      const page = pageAt(log, length, { isWhole: true });
      yield (conversation) => conversation.reset(page);
      at = resumeAt(frames, page.cursor);
      continue;
    }
    const [frame, next] = merged(frames, at, roll);
    yield (conversation) => conversation.apply(frame);
    at = next;
  }
}

function resumeAt(frames, cursor) {
  return frames.findIndex(({ id }) => id === cursor) + 1;
}

/** A frame of the log, or several tokens that piled up and came as one. */
function merged(frames, at, roll) {
  let frame = frames[at];
  let next = at + 1;
  while (frame.type === "token" && frames[next]?.type === "token" && roll(2) === 0) {
    frame = { ...frames[next], content: frame.content + frames[next].content };
    next += 1;
  }
  return [frame, next];
}

/** What a page would show, without what only frames or only pages say. */
export function shownOf(conversation) {
  return conversation.turns.map(({ turn, status, user, reply, replaces, replacedBy }) => {
    const { messageId, content, finishReason } = reply;
    return { turn, status, user, replaces, replacedBy, reply: { messageId, content, finishReason } };
  });
}
