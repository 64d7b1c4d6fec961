// The client among sockets that break as a test says, with time that passes as a test says.

import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { CloseCode } from "../../../gateway/web/midm-chat.js";
import { LIMITS, settled, World } from "./world.mjs";

let world;

function around(options) {
  world = new World(options);
  return world;
}

afterEach(() => world.end());

function types(socket) {
  return socket.sent.map(({ type }) => type);
}

test("a session is made before the first message can be sent", async () => {
  const { chat, calls, sockets } = around();
  chat.send("안녕");
  assert.equal(sockets.length, 0);
  const socket = await world.open();
  assert.deepEqual(calls.map(({ method, path }) => [method, path]), [["POST", "/api/sessions"]]);
  assert.equal(socket.url.href, "ws://chat.test/deep/ws?session_id=s&after=0.0.end");
  assert.deepEqual(types(socket), ["chat"]);
  assert.deepEqual([chat.sessionId, chat.limits], ["s", LIMITS]);
});

test("a session without a cursor is loaded first, and read on from there", async () => {
  around({ sessionId: "a b", pageSize: 7 });
  const page = { messages: [], cursor: "4.1.0", next_before: "m" };
  world.answer = () => [200, page];
  const socket = await world.open();
  assert.equal(world.calls[0].path + world.calls[0].query, "/api/sessions/a%20b/messages?limit=7");
  assert.deepEqual(world.of("reset"), [page]);
  assert.equal(socket.url.searchParams.get("after"), "4.1.0");
});

test("after each cut it reads on behind the last event", async () => {
  const { chat } = around({ sessionId: "s", cursor: "1.1.end" });
  const first = await world.open();
  first.start(2);
  first.say({ type: "token", id: "2.1.3", turn: 2, content: "abc", token_count: 1 });
  first.break();
  first.say({ type: "token", id: "2.1.9", turn: 2, content: "unheard", token_count: 1 });
  assert.equal(chat.state, "waiting");
  assert.equal(chat.retryAt, 1_000_250);
  await world.pass(250);
  assert.equal(world.socket.url.searchParams.get("after"), "2.1.3");
  assert.deepEqual(world.of("token").map(({ content }) => content), ["abc"]);
  first.break();
  assert.equal(chat.state, "connecting", "that one was given up long ago");
});

test("waits double up to the cap, and begin small again once a connection was of use", async () => {
  around({ sessionId: "s", cursor: "0.0.end" });
  world.chat.connect();
  await settled();
  const waits = [];
  for (let failed = 0; failed < 8; failed += 1) {
    world.socket.break();
    waits.push(world.of("state").at(-1).retryInMs);
    await world.pass(waits.at(-1));
  }
  assert.deepEqual(waits, [250, 500, 1000, 2000, 4000, 7500, 7500, 7500]);
  world.socket.ready();
  world.socket.break();
  assert.equal(world.of("state").at(-1).retryInMs, 7500, "that it opened proves nothing");
  await world.pass(7500);
  world.socket.ready();
  world.socket.start(1);
  world.socket.break();
  assert.equal(world.of("state").at(-1).retryInMs, 250);
});

test("a message is sent again on each connection until it is known to be stored", async () => {
  const { chat } = around({ sessionId: "s", cursor: "0.0.end" });
  const first = await world.open();
  const requestId = chat.send("q", { maxNewTokens: 5, temperature: 0, doSample: false, replaces: 3 });
  first.break();
  await world.pass(1000);
  world.socket.ready();
  const frame = { type: "chat", message: "q", replaces: 3, request_id: requestId };
  const generation = { max_new_tokens: 5, temperature: 0, do_sample: false };
  assert.deepEqual(world.socket.sent, [{ ...frame, ...generation }]);
  assert.deepEqual(first.sent, world.socket.sent);
  world.socket.say({ type: "accepted", turn: 1, request_id: requestId, duplicate: true, status: "running" });
  assert.deepEqual(chat.outbox, []);
  world.socket.break();
  await world.pass(1000);
  world.socket.ready();
  assert.deepEqual(world.socket.sent, []);
});

test("a message that is sent as soon as it is open is sent once, behind older ones", async () => {
  const { chat } = around();
  chat.send("older");
  chat.addEventListener("state", ({ detail }) => detail.state === "open" && chat.send("greeting"));
  chat.addEventListener("ready", () => chat.send("question"));
  const socket = await world.open();
  assert.deepEqual(socket.sent.map(({ message }) => message), ["older", "greeting", "question"]);
});

test("a start with its request_id says that a message is stored, too", async () => {
  const { chat } = around();
  const socket = await world.open();
  const request_id = chat.send("q");
  socket.start(1, { request_id });
  assert.deepEqual(chat.outbox, []);
});

test("an outbox goes from one client to the next, as JSON", async () => {
  const { chat } = around();
  chat.send("q", { temperature: 1 });
  chat.regenerate({ turn: 4 });
  const kept = JSON.parse(JSON.stringify(chat.outbox));
  world.end();
  around({ outbox: kept, sessionId: "s", cursor: "4.1.end" });
  const socket = await world.open();
  assert.deepEqual(socket.sent.map(({ request_id }) => request_id), kept.map(({ requestId }) => requestId));
  assert.deepEqual(types(socket), ["chat", "regenerate"]);
  assert.equal(socket.sent[1].turn, 4);
});

test("what may succeed soon is sent again, when the gateway says", async () => {
  const { chat } = around();
  const socket = await world.open();
  const request_id = chat.send("q");
  socket.say({ type: "error", code: "queue_full", message: "", retryable: true, retry_after_ms: 3000, request_id });
  assert.equal(world.of("delayed")[0].retryInMs, 3000);
  await world.pass(2999);
  assert.equal(socket.sent.length, 1);
  await world.pass(1);
  assert.deepEqual(socket.sent[0], socket.sent[1]);
  assert.deepEqual(world.of("refused"), []);
});

test("but not for ever, and not later than anybody would wait", async () => {
  const { chat } = around();
  const socket = await world.open();
  const refusal = { type: "error", code: "storage_error", message: "", retryable: true };
  const request_id = chat.send("q");
  for (let second = 0; second < 120 && chat.outbox.length; second += 1) {
    if (socket.sent.length > world.of("error").length) socket.say({ ...refusal, request_id });
    await world.pass(1000);
  }
  assert.deepEqual(world.of("refused").map(({ message }) => message), ["q"]);
  assert.ok(socket.sent.length > 5);
  const late = { ...refusal, retry_after_ms: 31_000, request_id: chat.send("r") };
  socket.say(late);
  assert.deepEqual(world.of("refused")[1], { requestId: late.request_id, message: "r", error: late });
});

for (const code of ["turn_in_progress", "request_id_conflict", "message_too_long", "turn_not_found"]) {
  test(`${code} is for the user, who may try again`, async () => {
    const { chat } = around();
    const socket = await world.open();
    const request_id = chat.send("q");
    const error = { type: "error", code, message: "", retryable: false, request_id };
    socket.say(error);
    assert.deepEqual(world.of("refused"), [{ requestId: request_id, message: "q", error }]);
    assert.deepEqual([chat.outbox, world.of("error")], [[], [error]]);
    assert.equal(chat.retry(request_id), true);
    assert.deepEqual(socket.sent[0], socket.sent[1]);
    assert.equal(chat.retry("unknown"), false);
  });
}

test("of what was refused only the last is kept", async () => {
  const { chat } = around();
  const socket = await world.open();
  const ids = [];
  for (let count = 0; count < 17; count += 1) {
    ids.push(chat.send("q"));
    socket.say({ type: "error", code: "internal", message: "", retryable: false, request_id: ids.at(-1) });
  }
  assert.deepEqual([chat.retry(ids[0]), chat.retry(ids[1])], [false, true]);
});

test("a message that would break the connection is not sent", async () => {
  const { chat } = around();
  const socket = await world.open();
  chat.send("가".repeat(400));
  assert.deepEqual(socket.sent, []);
  assert.equal(world.of("refused")[0].error.code, "message_too_long");
});

test("the outbox is bounded", () => {
  const { chat } = around();
  for (let count = 0; count < 32; count += 1) chat.send("q");
  assert.throws(() => chat.send("q"), RangeError);
});

test("regenerate names the last turn that was read", async () => {
  const { chat } = around({ sessionId: "s", cursor: "12.1.end" });
  const socket = await world.open();
  chat.regenerate();
  assert.equal(socket.sent[0].turn, 12);
  assert.deepEqual(world.of("sent")[0].replaces, 12);
});

test("a cancel outlives a cut, but not its turn", async () => {
  const { chat } = around({ sessionId: "s", cursor: "0.0.end" });
  (await world.open()).start(1);
  chat.cancel();
  world.socket.break();
  await world.pass(1000);
  world.socket.ready({ turn: { turn: 1, status: "running" } });
  assert.deepEqual(world.socket.sent, [{ type: "cancel", turn: 1 }]);
  world.socket.break();
  await world.pass(1000);
  world.socket.ready({ turn: null });
  assert.deepEqual(world.socket.sent, []);
});

test("a cursor that is not honoured leads to the history, once at once and then with patience", async () => {
  const { chat } = around({ sessionId: "s", cursor: "99.1.end" });
  const page = { messages: [], cursor: "2.1.end", next_before: null };
  world.answer = () => [200, page];
  const first = await world.open({ resumed: false, cursor: "2.1.end" });
  await world.pass(0);
  assert.equal(first.isClosed, true);
  assert.deepEqual(world.of("reset"), [page]);
  assert.equal(world.socket.url.searchParams.get("after"), "2.1.end");
  world.socket.ready({ resumed: false });
  assert.equal(chat.state, "waiting");
  assert.equal(world.of("state").at(-1).retryInMs, 500);
  assert.ok(!world.states.includes("open"));
});

test("reconnect frames say when to leave", async () => {
  around();
  const first = await world.open();
  first.say({ type: "reconnect", reason: "restart", after_ms: 4000 });
  await world.pass(3999);
  assert.equal(first.isClosed, false);
  await world.pass(1);
  assert.equal(first.isClosed, true);
  assert.equal(world.sockets.length, 2);
  world.socket.ready();
  world.socket.say({ type: "reconnect", reason: "restart", after_ms: 4000 });
  world.socket.break(1012);
  assert.equal(world.of("state").at(-1).retryInMs, 4000, "it was closed before that, and still it waits");
});

for (const code of [4502, 4504, 4505, 4999]) {
  test(`it stays away after ${code}`, async () => {
    const { chat } = around();
    const socket = await world.open();
    chat.send("q");
    socket.say({ type: "error", code: "x", message: "why", retryable: false });
    socket.break(code);
    assert.deepEqual(chat.closedBy, { code, reason: "why" });
    assert.throws(() => chat.send("q"), /closed: why/);
    assert.equal(world.of("refused").length, code === CloseCode.SESSION_GONE ? 1 : 0);
    await world.pass(100_000);
    assert.equal(world.sockets.length, 1);
  });
}

for (const code of [1000, 1001, 1006, 1012, 1013, 4000, 4003, 4008, 4499]) {
  test(`it comes back after ${code}`, async () => {
    around();
    (await world.open()).break(code);
    await world.pass(1000);
    assert.equal(world.sockets.length, 2);
  });
}

test("silence for two heartbeats and a while is a lost connection", async () => {
  around();
  const socket = await world.open();
  await world.pass(30_000);
  socket.say({ type: "ping" });
  await world.pass(54_999);
  assert.equal(world.chat.state, "open");
  await world.pass(1);
  assert.deepEqual([world.chat.state, socket.isClosed], ["waiting", true]);
});

test("a gateway that never says ready is left alone after a while", async () => {
  around();
  world.chat.connect();
  await settled();
  await world.pass(15_000);
  assert.equal(world.chat.state, "waiting");
});

test("while it waits, connect tries at once", async () => {
  around();
  (await world.open()).break();
  world.chat.connect();
  await settled();
  assert.equal(world.sockets.length, 2);
  world.chat.connect();
  assert.equal(world.sockets.length, 2);
});

test("a session that is gone, or a wrong address, closes it; trouble does not", async () => {
  const gone = [404, { code: "session_not_found", detail: "no such session", retryable: false }];
  const wrong = [404, { detail: "Not Found" }];
  const busy = [503, { code: "storage_error", detail: "", retryable: true }, { "Retry-After": "3" }];
  for (const [answer, closedBy] of [
    [gone, { code: 4504, reason: "no such session" }],
    [wrong, { code: 404, reason: "Not Found" }],
    [busy, null],
    [new TypeError("Failed to fetch"), null],
  ]) {
    const { chat } = around({ sessionId: "s" });
    world.answer = () => answer;
    chat.connect();
    await settled();
    assert.deepEqual(chat.closedBy, closedBy);
    if (answer === busy) assert.equal(world.of("state").at(-1).retryInMs, 3000);
    world.end();
  }
});
