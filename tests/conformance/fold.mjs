// Runs the fold vectors on a client in JavaScript: node tests/conformance/fold.mjs ./client.js
//
// The module exports a class Conversation with load(page), reset(page), apply(frame), turns, open
// and cursor, where a turn is {turn, status, user: {content}, reply: {content}, error, replacedBy}.

import { readdirSync, readFileSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const { Conversation } = await import(pathToFileURL(resolve(process.argv[2])));
const folder = new URL("../../protocol/conformance/fold/", import.meta.url);

const read = (name) => JSON.parse(readFileSync(new URL(name, folder), "utf8"));
const files = readdirSync(folder).filter((name) => name.endsWith(".json") && name !== "format.json");
const cases = files.flatMap((file) => read(file).cases.map((each) => ({ file, ...each })));

function shown(conversation) {
  const turns = conversation.turns.map((turn) => ({
    turn: turn.turn,
    status: turn.status,
    question: turn.user.content,
    reply: turn.reply.content,
    error: turn.error?.code ?? null,
    replaced_by: turn.replacedBy ?? null,
  }));
  const open = conversation.open?.turn ?? null;
  return JSON.stringify({ cursor: conversation.cursor ?? "0.0.end", open, turns });
}

function play(steps) {
  const conversation = new Conversation();
  for (const step of steps) {
    const [[does, value]] = Object.entries(step);
    if (does !== "shows") conversation[does](value);
    else if (shown(conversation) !== JSON.stringify(value)) {
      return `shows ${shown(conversation)}\n should ${JSON.stringify(value)}`;
    }
  }
  return null;
}

let broken = 0;
for (const { file, name, steps } of cases) {
  const says = play(steps);
  if (says === null) continue;
  broken += 1;
  console.log(`BROKEN ${file}: ${name}\n ${says}`);
}
console.log(`${cases.length - broken} of ${cases.length} hold`);
process.exitCode = broken ? 1 : 0;
