// A gateway that does what a test tells it to, and time that passes when a test says so.

import { mock } from "node:test";

import { ChatClient } from "../../../gateway/web/midm-chat.js";

export const LIMITS = { max_message_chars: 32000, max_new_tokens: 8192, max_frame_bytes: 1000 };

/** The other end of one WebSocket. */
class Socket {
  sent = [];
  isClosed = false;

  constructor(url, protocols) {
    this.url = new URL(url);
    this.protocols = protocols;
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close() {
    this.isClosed = true;
  }

  /** The gateway says something. */
  say(frame) {
    this.onmessage({ data: JSON.stringify(frame) });
  }

  /** The gateway closes it, or the line breaks. */
  break(code = 1006, reason = "") {
    this.onclose({ code, reason });
  }

  /** The gateway lets the client in. */
  ready(more = {}) {
    this.onopen();
    const cursor = this.url.searchParams.get("after");
    const frame = { type: "ready", session_id: "s", resumed: true, heartbeat_s: 25, turn: null };
    this.say({ ...frame, cursor, limits: LIMITS, ...more });
  }

  start(turn, more = {}) {
    const user_message = { message_id: `u${turn}`, content: "q", created_at: "t" };
    this.say({ type: "start", id: `${turn}.1.0`, turn, attempt: 1, message_id: "r", user_message, ...more });
  }
}

/** A browser's window, document and navigator in one, as far as a client looks at them. */
class Browser extends EventTarget {
  onLine = true;
  visibilityState = "visible";

  constructor() {
    super();
    globalThis.addEventListener = (...given) => this.addEventListener(...given);
    globalThis.document = this;
    Object.defineProperty(globalThis, "navigator", { value: this, configurable: true });
  }

  tell(type, fields = {}) {
    Object.assign(this, fields);
    this.dispatchEvent(new Event(type));
  }
}

/** The timers that are set; the mock has no such list. */
function watchTimers() {
  const set = new Set();
  const { setTimeout, clearTimeout } = globalThis;
  globalThis.setTimeout = (act, ms) => {
    const timer = setTimeout(() => set.delete(timer) && act(), ms);
    set.add(timer);
    return timer;
  };
  globalThis.clearTimeout = (timer) => {
    set.delete(timer);
    clearTimeout(timer);
  };
  return set;
}

/** Everything around one client; `calls` are those of REST, answered by `answer`. */
export class World {
  sockets = [];
  calls = [];
  heard = [];

  /** What REST answers: `[status, body, headers]`, or an Error. */
  answer = (path) => {
    if (path === "/api/sessions") return [201, { session_id: "s" }];
    return [200, { messages: [], cursor: "0.0.end", next_before: null }];
  };

  constructor(options = {}) {
    mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_000_000 });
    this.timers = watchTimers();
    this.browser = new Browser();
    const { sockets } = this;
    class WebSocket extends Socket {
      constructor(...given) {
        super(...given);
        sockets.push(this);
      }
    }
    const fetch = (url, request) => this.#fetch(new URL(url), request);
    const base = { url: "http://chat.test/deep", WebSocket, fetch, random: () => 0.5 };
    this.chat = new ChatClient({ ...base, ...options });
    for (const type of ["state", "sent", "refused", "delayed", "reset", "error", "token"]) {
      this.chat.addEventListener(type, ({ detail }) => this.heard.push([type, detail]));
    }
  }

  get socket() {
    return this.sockets.at(-1);
  }

  get states() {
    return this.of("state").map(({ state }) => state);
  }

  of(type) {
    return this.heard.filter(([told]) => told === type).map(([, detail]) => detail);
  }

  /** Connect, and let the gateway say `ready`. */
  async open(more) {
    this.chat.connect();
    await settled();
    this.socket.ready(more);
    return this.socket;
  }

  /** Let time pass, and whatever it brings. */
  async pass(ms) {
    mock.timers.tick(ms);
    await settled();
  }

  end() {
    this.chat.close();
    mock.timers.reset();
  }

  async #fetch(url, request) {
    this.calls.push({ path: url.pathname.replace("/deep", ""), query: url.search, ...request });
    const answer = await this.answer(url.pathname.replace("/deep", ""), request);
    if (answer instanceof Error) throw answer;
    const [status, body, headers = {}] = answer;
    return new Response(JSON.stringify(body), { status, headers });
  }
}

/** Wait until all promises that can be kept by now are. */
export function settled() {
  return new Promise((resolve) => setImmediate(resolve));
}
