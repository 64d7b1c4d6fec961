// What is around a client: networks that come and go, pages that are looked at, and its own end.

import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { settled, World } from "./world.mjs";

let world;

function around(options) {
  world = new World(options);
  return world;
}

afterEach(() => world.end());

function types(socket) {
  return socket.sent.map(({ type }) => type);
}

test("nothing is left of a client that is closed, whatever it was doing", async () => {
  const doings = [
    () => {},
    (socket) => socket.say({ type: "reconnect", reason: "", after_ms: 10 }),
    (socket) => socket.break(),
    (socket) => socket.say({ type: "error", code: "queue_full", retry_after_ms: 5, request_id: world.chat.send("q") }),
    () => world.chat.close(),
  ];
  for (const doing of doings) {
    around({ token: () => ({ token: "t", expiresAt: 1_100_000 }) });
    doing(await world.open());
    world.chat.close();
    assert.equal(world.timers.size, 0);
    const told = world.heard.length;
    for (const type of ["online", "offline", "visibilitychange"]) world.browser.tell(type);
    await world.pass(1_000_000);
    assert.equal(world.heard.length, told);
    assert.equal(world.sockets.length, 1);
    assert.deepEqual([world.chat.state, world.chat.closedBy.code], ["closed", 1000]);
    world.end();
  }
});

test("a call that is on its way is given up when it is closed", async () => {
  const { chat } = around();
  let asked;
  world.answer = (path, { signal }) => ((asked = signal), new Promise(() => {}));
  chat.connect();
  await settled();
  assert.deepEqual([asked.aborted, world.timers.size], [false, 2]);
  chat.close();
  assert.equal(asked.aborted, true);
  world.end();
  const { chat: other } = around({ sessionId: "s", cursor: "0.0.end" });
  await world.open();
  world.answer = (path, { signal }) => ((asked = signal), new Promise(() => {}));
  void other.history();
  await settled();
  world.socket.break();
  assert.equal(asked.aborted, false, "a page is loaded whatever becomes of the socket");
  other.close();
  assert.equal(asked.aborted, true);
});

test("what comes too late opens nothing", async () => {
  let give;
  const { chat } = around({ token: () => new Promise((resolve) => (give = resolve)), sessionId: "s", cursor: "0.0.end" });
  chat.connect();
  await settled();
  chat.close();
  give("t");
  await settled();
  assert.deepEqual([world.sockets, chat.state], [[], "closed"]);
});

test("whoever closes it on being told that it is open hears nothing more", async () => {
  const { chat } = around();
  const told = [];
  chat.addEventListener("ready", () => told.push("ready"));
  chat.addEventListener("state", ({ detail }) => detail.state === "open" && chat.close());
  await world.open();
  assert.deepEqual([told, chat.state, world.timers.size], [[], "closed", 0]);
});

test("it may be opened again", async () => {
  const { chat } = around();
  (await world.open()).start(1);
  chat.close();
  const again = await world.open();
  assert.equal(again.url.searchParams.get("after"), "1.1.0");
  assert.equal(chat.closedBy, null);
});

test("without a network it waits for one, and tries now and then all the same", async () => {
  const { chat, browser } = around();
  const first = await world.open();
  browser.tell("offline", { onLine: false });
  assert.deepEqual(types(first), ["ping"], "the gateway may be on this machine");
  first.say({ type: "pong" });
  await world.pass(5000);
  assert.equal(chat.state, "open");
  first.break();
  assert.deepEqual([chat.state, world.of("state").at(-1).retryInMs], ["offline", 15_000]);
  await world.pass(15_000);
  assert.equal(world.sockets.length, 2);
  world.socket.break();
  browser.tell("online", { onLine: true });
  await settled();
  assert.equal(world.sockets.length, 3);
  world.socket.break();
  assert.equal(chat.state, "waiting");
  browser.tell("offline", { onLine: false });
  assert.equal(chat.state, "offline");
});

test("a page that is looked at again tries at once, or sees whether there is a line", async () => {
  const { chat, browser } = around();
  (await world.open()).break();
  browser.tell("visibilitychange", { visibilityState: "hidden" });
  assert.equal(chat.state, "waiting");
  browser.tell("visibilitychange", { visibilityState: "visible" });
  await settled();
  world.socket.ready();
  browser.tell("visibilitychange");
  assert.deepEqual(types(world.socket), ["ping"]);
  await world.pass(5000);
  assert.equal(chat.state, "waiting");
});

test("a connection that lasted was a good one, though nothing was said on it", async () => {
  around();
  await world.open();
  for (const [lastedMs, waitsMs] of [[9_999, 250], [9_999, 500], [10_000, 250], [9_999, 500]]) {
    await world.pass(lastedMs);
    world.socket.break();
    assert.equal(world.of("state").at(-1).retryInMs, waitsMs);
    await world.pass(waitsMs);
    world.socket.ready();
  }
  world.socket.break();
  await world.pass(1000);
  await world.pass(10_000);
  world.socket.break();
  assert.equal(world.of("state").at(-1).retryInMs, 2000, "it was never open");
});

test("thousands of connections leave nothing behind", async () => {
  const { sockets } = around();
  await world.open();
  const round = async (count) => {
    for (let each = 0; each < count; each += 1) {
      const request_id = world.chat.send("q");
      world.socket.say({ type: "error", code: "internal", request_id });
      world.socket.say({ type: "token", id: "1.1.1", turn: 1, content: "a", token_count: 1 });
      world.socket.break();
      sockets.length = world.heard.length = world.calls.length = 0;
      await world.pass(1000);
      world.socket.ready();
    }
    globalThis.gc();
    return process.memoryUsage().heapUsed;
  };
  const used = [];
  for (let rounds = 0; rounds < 5; rounds += 1) used.push(await round(500));
  // What the engine itself takes is taken in one of them; what leaks, in all.
  const grown = Math.min(...used.slice(1).map((bytes, at) => bytes - used[at]));
  assert.ok(grown < 40_000, `${grown} bytes in 500 connections`);
});
