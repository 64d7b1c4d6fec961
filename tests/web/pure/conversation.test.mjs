// The fold: whatever a client hears of a session, in pieces, twice or by pages, it shows the same.

import assert from "node:assert/strict";
import { test } from "node:test";

import { codePoints, compareCursors, Conversation } from "../../../gateway/web/conversation.js";
import { anyLog, dice, hearing, pageAt, shownOf } from "./logs.mjs";

const SEED = Number(process.env.FAULTS_SEED ?? Math.floor(Math.random() * 1e6));

function start(turn, more = {}) {
  const user_message = { message_id: `u${turn}`, content: `q${turn}`, created_at: "t" };
  return { type: "start", id: `${turn}.1.0`, turn, attempt: 1, message_id: `r${turn}`, user_message, ...more };
}

function token(turn, end, content, attempt = 1) {
  return { type: "token", id: `${turn}.${attempt}.${end}`, turn, content, token_count: end };
}

function complete(turn, finish_reason = "stop") {
  const timing = { queue_ms: 0, first_token_ms: 1, duration_ms: 2 };
  const rest = { total_tokens: 1, token_usage: null, created_at: "t", timing };
  return { type: "complete", id: `${turn}.1.end`, turn, message_id: `r${turn}`, finish_reason, ...rest };
}

function folded(...frames) {
  const conversation = new Conversation();
  for (const frame of frames) conversation.apply(frame);
  return conversation;
}

test("any cut, resume, repeat and page gives the same conversation", () => {
  for (let round = 0; round < 400; round += 1) {
    const roll = dice(SEED + round);
    const log = anyLog(roll);
    const whole = folded(...log.frames);
    const pieces = new Conversation();
    for (const step of hearing(log, roll)) step(pieces);
    assert.deepEqual(shownOf(pieces), shownOf(whole), `FAULTS_SEED=${SEED + round}`);
    assert.equal(pieces.cursor, log.frames.at(-1).id, `FAULTS_SEED=${SEED + round}`);
  }
});

test("a page alone shows what the whole log does", () => {
  for (let round = 0; round < 100; round += 1) {
    const log = anyLog(dice(SEED + round));
    const loaded = new Conversation();
    loaded.load(pageAt(log, log.frames.length, { isWhole: true }));
    assert.deepEqual(shownOf(loaded), shownOf(folded(...log.frames)), `FAULTS_SEED=${SEED + round}`);
  }
});

test("text is put together by code points, not by halves of them", () => {
  const conversation = folded(start(1), token(1, 3, "안🙌녕"));
  conversation.apply(token(1, 5, "🙌녕하세"));
  assert.equal(conversation.open.reply.content, "안🙌녕하세");
  assert.equal(codePoints("안🙌녕하세"), 5);
});

test("a start empties what is shown of its turn", () => {
  const conversation = folded(start(1), token(1, 2, "ab"), start(1, { id: "1.2.0", attempt: 2 }));
  assert.equal(conversation.open.reply.content, "");
  conversation.apply(token(1, 4, "late", 1));
  conversation.apply(token(1, 1, "x", 2));
  assert.deepEqual([conversation.open.reply.content, conversation.open.attempt], ["x", 2]);
});

test("what is over stays as it is", () => {
  const conversation = folded(start(1), token(1, 2, "ab"), complete(1));
  for (const late of [start(1), token(1, 2, "ab"), token(1, 4, "cd"), { type: "queued", turn: 1, position: 1 }]) {
    conversation.apply(late);
    const [{ status, reply, queue }] = conversation.turns;
    assert.deepEqual([status, reply.content, queue], ["complete", "ab", null]);
  }
  conversation.load({ messages: [], cursor: "1.1.0" });
  assert.equal(conversation.cursor, "1.1.end");
});

test("what an attempt says that was given up is not heard", () => {
  const conversation = folded(start(1), start(1, { id: "1.2.0", attempt: 2 }), token(1, 2, "ab", 2));
  for (const late of [start(1), token(1, 9, "late"), complete(1)]) {
    conversation.apply(late);
    assert.deepEqual([conversation.open.attempt, conversation.open.reply.content], [2, "ab"]);
  }
});

test("an older page does not end the turn that is open", () => {
  const conversation = folded(start(1), token(1, 2, "ab"));
  const user = { message_id: "u1", role: "user", content: "q1", created_at: "t", turn: 1, finish_reason: null };
  conversation.load({ messages: [user], cursor: null });
  assert.deepEqual([conversation.open.status, conversation.open.reply.content], ["running", "ab"]);
});

test("the place in the queue is shown until the first text", () => {
  const conversation = folded(start(1), { type: "queued", turn: 1, position: 3, eta_ms: 500 });
  assert.deepEqual(conversation.open.queue, { position: 3, etaMs: 500 });
  assert.equal(conversation.open.status, "queued");
  conversation.apply({ type: "ready", turn: { turn: 1, status: "queued", position: 2 } });
  assert.equal(conversation.open.queue.position, 2);
  conversation.apply(token(1, 1, "a"));
  assert.equal(conversation.apply({ type: "queued", turn: 1, position: 9 }), null);
  assert.deepEqual([conversation.open.queue, conversation.open.status], [null, "running"]);
});

test("a turn ends as its last event says", () => {
  const error = { type: "error", id: "2.1.end", turn: 2, code: "upstream_error", message: "no", retryable: false };
  const conversation = folded(start(1), complete(1, "cancelled"), start(2), error);
  const [first, second] = conversation.turns;
  assert.deepEqual([first.status, second.status], ["cancelled", "error"]);
  assert.deepEqual([first.reply.timing.duration_ms, second.error.code], [2, "upstream_error"]);
  assert.equal(conversation.open, null);
  assert.equal(conversation.apply({ ...error, id: undefined, turn: undefined }), null);
});

test("an edit hides the turns from there on, and leads back to what was asked before", () => {
  const ended = [1, 2, 3].flatMap((turn) => [start(turn), complete(turn)]);
  const conversation = folded(...ended, start(4, { replaces: 2 }), complete(4), start(5, { replaces: 4 }));
  assert.deepEqual(conversation.visible.map(({ turn }) => turn), [1, 5]);
  assert.deepEqual(conversation.versions(5).map(({ turn }) => turn), [2, 4]);
  assert.deepEqual(conversation.versions(1), []);
  assert.equal(conversation.turn(3).replacedBy, 4);
});

test("a page with replaced turns leads back as well", () => {
  const rows = [[1, 3], [2, 3], [3, undefined]].flatMap(([turn, replaced_by]) => [
    { message_id: `u${turn}`, role: "user", content: "q", created_at: "t", turn, finish_reason: null, replaced_by },
    { message_id: `r${turn}`, role: "assistant", content: "a", created_at: "t", turn, finish_reason: "stop", replaced_by },
  ]);
  const conversation = new Conversation();
  conversation.load({ messages: rows.slice(4), cursor: "3.1.end" });
  conversation.load({ messages: rows, cursor: "3.1.end" });
  assert.deepEqual(conversation.versions(3).map(({ turn }) => turn), [1]);
  assert.deepEqual(conversation.visible.map(({ turn }) => turn), [3]);
});

test("a question that was adopted without a reply is interrupted, and what has no turn is loose", () => {
  const user = { message_id: "u", role: "user", content: "q", created_at: "t", turn: 1, finish_reason: null };
  const conversation = new Conversation();
  const system = { ...user, message_id: "s", role: "system", turn: null };
  conversation.load({ messages: [system, user, { ...user, message_id: "v", turn: 2 }], cursor: "2.1.0" });
  assert.deepEqual(conversation.turns.map(({ status }) => status), ["interrupted", "running"]);
  assert.deepEqual(conversation.loose, [system]);
  conversation.load({ messages: [system], cursor: null });
  assert.equal(conversation.loose.length, 1);
});

test("turns stay the same objects, and a reset forgets all of them", () => {
  const conversation = folded(start(1));
  const [turn] = conversation.turns;
  assert.equal(conversation.apply(token(1, 1, "a")), turn);
  assert.equal(conversation.apply(complete(1)), turn);
  conversation.reset({ messages: [], cursor: "0.0.end" });
  assert.deepEqual([conversation.turns, conversation.cursor], [[], "0.0.end"]);
});

test("cursors are in the order of the log", () => {
  const order = ["0.0.end", "1.1.0", "1.1.9", "1.1.10", "1.1.end", "1.2.0", "2.1.0", "10.1.0"];
  assert.deepEqual(order.toReversed().sort(compareCursors), order);
  assert.equal(compareCursors("1.1.end", "1.1.end"), 0);
});
