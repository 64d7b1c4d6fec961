// Tokens: where they go, when the next one is asked for, and when that is of no use any more.

import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { Credentials } from "../../../gateway/web/credentials.js";
import { newRequestId } from "../../../gateway/web/wire.js";
import { settled, World } from "./world.mjs";

let world;

function around(options) {
  world = new World(options);
  return world;
}

afterEach(() => world?.end());

function jwt(exp) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  return `${part({ alg: "none" })}.${part({ exp, sub: "안녕?>" })}.x`;
}

/** A function that gives one token after another, and counts. */
function issuing(...tokens) {
  const issue = async () => tokens[Math.min(issue.asked++, tokens.length - 1)];
  issue.asked = 0;
  return issue;
}

test("a token goes into the handshake, and into each call", async () => {
  around({ token: "midm_a_b" });
  const socket = await world.open();
  assert.deepEqual(socket.protocols, ["midm.chat.v1", "bearer.midm_a_b"]);
  assert.equal(world.calls[0].headers.Authorization, "Bearer midm_a_b");
  assert.deepEqual(socket.sent, []);
});

test("a token that no handshake can carry is the first frame", async () => {
  around({ token: async () => "a/b==" });
  const socket = await world.open();
  assert.deepEqual(socket.protocols, ["midm.chat.v1"]);
  assert.deepEqual(socket.sent, [{ type: "auth", token: "a/b==" }]);
});

test("who has no token says nothing of one", async () => {
  around();
  const socket = await world.open();
  assert.deepEqual([socket.protocols, socket.sent], [["midm.chat.v1"], []]);
  assert.equal(world.calls[0].headers.Authorization, undefined);
});

test("a token is renewed before it expires, on the connection that there is", async () => {
  const token = issuing(jwt(1_000 + 300), jwt(1_000 + 600));
  around({ token });
  const socket = await world.open();
  for (let beats = 0; beats < 10; beats += 1) {
    await world.pass(25_000);
    socket.say({ type: "ping" });
  }
  await world.pass(19_999);
  assert.equal(token.asked, 1);
  await world.pass(1);
  assert.deepEqual(socket.sent, [{ type: "auth", token: jwt(1_000 + 600) }]);
  assert.equal(world.sockets.length, 1);
});

test("a token that has expired is not offered again", async () => {
  const token = issuing("old", "new");
  around({ token });
  (await world.open()).break(4001);
  await world.pass(1000);
  assert.equal(world.socket.protocols[1], "bearer.new");
});

test("a token that is refused is replaced once, and then it is over", async () => {
  const token = issuing("bad", "worse", "good");
  const { chat } = around({ token, sessionId: "s", cursor: "0.0.end" });
  chat.connect();
  await settled();
  world.socket.break(4500);
  await world.pass(1000);
  assert.equal(world.socket.protocols[1], "bearer.worse");
  world.socket.say({ type: "error", code: "unauthorized", message: "no such key", retryable: false });
  world.socket.break(4500);
  assert.deepEqual(chat.closedBy, { code: 4500, reason: "no such key" });
});

test("one that was taken in between may be refused and replaced again", async () => {
  const token = issuing("a", "b", "c");
  around({ token, sessionId: "s", cursor: "0.0.end" });
  for (const expected of ["a", "b", "c"]) {
    if (expected === "a") world.chat.connect();
    await world.pass(1000);
    assert.equal(world.socket.protocols[1], `bearer.${expected}`);
    world.socket.ready();
    world.socket.break(4500);
  }
});

test("a fixed token that is refused is the end", async () => {
  around({ token: "bad", sessionId: "s", cursor: "0.0.end" });
  world.chat.connect();
  await settled();
  world.socket.break(4500);
  assert.equal(world.chat.closedBy.code, 4500);
});

test("a call that is refused is tried with a new token, once", async () => {
  const token = issuing("old", "new");
  around({ token });
  world.answer = (path, { headers }) =>
    headers.Authorization === "Bearer new" ? [201, { session_id: "s" }] : [401, { code: "unauthorized" }];
  await world.open();
  assert.equal(token.asked, 2);
  world.answer = () => [401, { code: "unauthorized", detail: "no" }];
  await assert.rejects(world.chat.history(), { code: "unauthorized", status: 401 });
  assert.equal(token.asked, 3);
});

test("a call that fails otherwise asks for no token", async () => {
  const token = issuing("t");
  around({ token, sessionId: "s" });
  world.answer = () => [503, { code: "storage_error", retryable: true }];
  world.chat.connect();
  await settled();
  assert.deepEqual([token.asked, world.calls.length], [1, 1]);
});

test("a message that a lapsed token held up goes out with the next one", async () => {
  around({ token: issuing("old", "new"), sessionId: "s", cursor: "0.0.end" });
  const first = await world.open();
  const request_id = world.chat.send("q");
  first.say({ type: "error", code: "unauthorized", message: "expired", retryable: false, request_id });
  first.break(4001);
  await world.pass(1000);
  world.socket.ready();
  assert.equal(world.socket.sent[0].request_id, request_id);
  assert.deepEqual(world.of("refused"), []);
});

test("an issuer that cannot be reached is asked again, with patience", async () => {
  let asked = 0;
  const token = async () => {
    asked += 1;
    if (asked < 3) throw new Error("down");
    return "t";
  };
  around({ token, sessionId: "s", cursor: "0.0.end" });
  world.chat.connect();
  await settled();
  assert.equal(world.chat.state, "waiting");
  await world.pass(250);
  await world.pass(500);
  assert.equal(world.socket.protocols[1], "bearer.t");
});

test("an issuer that takes its time is asked by one at a time", async () => {
  let asked = 0;
  const credentials = new Credentials(() => new Promise(() => (asked += 1)));
  void credentials.get();
  void credentials.get();
  void credentials.renew();
  await settled();
  assert.equal(asked, 1);
});

test("when to renew is told by the token, or with it", async () => {
  const now = 1_000_000;
  for (const [given, expected] of [
    ["opaque", null],
    ["a.b.c", null],
    [jwt(1_100), 70_000],
    [jwt(1_040), 20_000],
    [jwt(900), 1000],
    [{ token: "opaque", expiresAt: now + 60_000 }, 30_000],
    [null, null],
  ]) {
    const credentials = new Credentials(() => given);
    await credentials.get();
    assert.equal(credentials.renewInMs(now, 30_000), expected, JSON.stringify(given));
  }
  const fixed = new Credentials(jwt(1_100));
  await fixed.get();
  assert.equal(fixed.renewInMs(now, 30_000), null);
});

test("request_ids are fit for the contract, also where a page is not secure", () => {
  assert.match(newRequestId(), /^[0-9a-f-]{36}$/);
  const { crypto } = globalThis;
  const insecure = { getRandomValues: (bytes) => crypto.getRandomValues(bytes) };
  Object.defineProperty(globalThis, "crypto", { value: insecure, configurable: true });
  const made = new Set([newRequestId(), newRequestId()]);
  Object.defineProperty(globalThis, "crypto", { value: crypto, configurable: true });
  assert.equal(made.size, 2);
  for (const id of made) assert.match(id, /^[0-9a-f]{32}$/);
});
