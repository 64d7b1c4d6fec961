/**
 * A client of midm-chat-gateway for browsers, and for Node.js with a WebSocket of its choice.
 *
 *     import { ChatClient, Conversation } from "https://chat.example.org/web/midm-chat.js";
 *     const chat = new ChatClient();
 *     chat.addEventListener("token", ({ detail }) => console.log(detail.content));
 *     chat.connect();
 *     chat.send("안녕하세요");
 *
 * It reconnects by itself and reads on where it stopped, so that nothing is lost or comes twice,
 * and sends each message exactly once. README.md, beside this file, is its manual.
 */

import { Credentials } from "./credentials.js";
import { newEntry } from "./outbox.js";
import { Patience } from "./patience.js";
import { Pulse } from "./pulse.js";
import { ownGateway, Rest } from "./rest.js";
import { Sending } from "./sending.js";
import { isOffline, listen, Timers } from "./surroundings.js";
import { baseOf, CloseCode, fitsSubprotocol, isFinal } from "./wire.js";
import { openSocket, socketUrl, TIMING } from "./wire.js";

export { compareCursors, Conversation } from "./conversation.js";
export { ChatError, createSession } from "./rest.js";
export { backoffMs } from "./patience.js";
export { CloseCode, TIMING } from "./wire.js";

const NEW_SESSION_CURSOR = "0.0.end";
const PER_CONNECTION = ["connect", "retry", "leave", "renew"];

/**
 * @typedef {import("./midm-chat.d.ts").ClientOptions} ClientOptions
 * @typedef {import("./midm-chat.d.ts").SendOptions} SendOptions
 * @typedef {import("./midm-chat.d.ts").RegenerateOptions} RegenerateOptions
 * @typedef {import("./midm-chat.d.ts").MessagesPage} MessagesPage
 */

/** One session, on a connection that is renewed as often as it breaks. */
export class ChatClient extends EventTarget {
  /** @type {"idle" | "connecting" | "open" | "waiting" | "offline" | "closed"} */
  state = "idle";
  /** When the next try begins, in milliseconds since 1970. @type {number | null} */
  retryAt = null;
  /** Why it is closed for good. @type {{code: number, reason: string} | null} */
  closedBy = null;
  /** @type {string | null} */
  sessionId;
  /** How far it has read: for the next client of this session. @type {string | null} */
  cursor;
  /** What the gateway takes at most. @type {import("./midm-chat.d.ts").Limits | null} */
  limits = null;

  #base;
  #options;
  #timing;
  #credentials;
  #sending;
  #rest;
  #socket = null;
  #dial = null; // an AbortController: aborted as soon as another try replaces this one
  #timers = new Timers();
  #patience;
  #pulse;
  #complaint = null;
  #openTurn = null;
  #cancelled = null; // { turn } that is to be cancelled, until it is over
  #life = null; // an AbortController: aborted when the client is closed

  /** @param {ClientOptions} [options] */
  constructor({ url, sessionId, cursor, token, outbox, metadata, pageSize, timing, ...own } = {}) {
    super();
    this.sessionId = sessionId ?? null;
    this.cursor = this.sessionId ? (cursor ?? null) : null;
    this.#base = baseOf(url ?? ownGateway());
    this.#timing = { ...TIMING, ...timing };
    this.#credentials = new Credentials(token);
    const { WebSocket = globalThis.WebSocket, fetch = globalThis.fetch, random } = own;
    if (!WebSocket || !fetch) throw new TypeError("WebSocket, fetch: there is none here; pass one");
    const [base, credentials] = [this.#base, this.#credentials];
    this.#rest = new Rest({ base, fetch, credentials, callMs: this.#timing.callMs });
    this.#options = { metadata: metadata ?? {}, pageSize, WebSocket };
    this.#patience = new Patience(this.#timing, random);
    this.#pulse = new Pulse({
      probeMs: this.#timing.probeMs,
      ask: () => this.#say({ type: "ping" }),
      lost: () => this.#lose({ reason: "silence" }),
    });
    this.#sending = new Sending(this.#forSending(), outbox);
  }

  /**
   * What was sent and is not known to be stored: to be kept over a reload of the page.
   * @type {import("./midm-chat.d.ts").OutboxEntry[]}
   */
  get outbox() {
    return this.#sending.entries;
  }

  /** Connect, and stay connected until `close`; while it waits for its next try, try now. */
  connect() {
    if (this.state === "waiting" || this.state === "offline") this.#begin();
    if (this.state !== "idle" && this.state !== "closed") return;
    this.closedBy = null;
    this.#patience.rest();
    this.#life = new AbortController();
    const [wake, doubt] = [() => this.#wake(), () => this.#doubt()];
    listen({ wake, doubt, signal: this.#life.signal });
    this.#begin();
  }

  /** Close the connection and stop everything. Turns go on; messages stay in the outbox. */
  close() {
    if (this.state !== "closed") this.#finish(CloseCode.NORMAL, "closed by its user");
  }

  /**
   * Send a message, now or as soon as there is a connection; return its request id.
   * @param {string} text
   * @param {SendOptions} [options]
   */
  send(text, options = {}) {
    return this.#post(newEntry(text, { ...options, turn: undefined }));
  }

  /**
   * Ask a turn's question again, that of the last turn by default; return the request id.
   * @param {RegenerateOptions} [options]
   */
  regenerate(options = {}) {
    const turn = options.turn ?? (Number.parseInt(this.cursor, 10) || undefined);
    return this.#post(newEntry(null, { ...options, turn, replaces: undefined }));
  }

  /**
   * Send a message that was refused once more; false if it is not known any more.
   * @param {string} requestId
   */
  retry(requestId) {
    return this.#sending.retry(requestId);
  }

  /**
   * Stop a queued or running turn, by default the one that is open.
   * @param {number} [turn]
   */
  cancel(turn = this.#openTurn) {
    this.#cancelled = { turn };
    if (this.state === "open") this.#say({ type: "cancel", turn: turn ?? undefined });
  }

  /**
   * Load a page of messages: the newest, or those before a message id; rejects with `ChatError`.
   * @param {{limit?: number, before?: string | null, includeReplaced?: boolean}} [options]
   * @returns {Promise<MessagesPage>}
   */
  async history(options = {}) {
    if (!this.sessionId) throw new TypeError("there is no session yet");
    return this.#rest.messages(this.sessionId, options, this.#life?.signal);
  }

  // Connecting: one try after another

  async #begin() {
    this.#stop();
    const dial = (this.#dial = new AbortController());
    this.#to("connecting");
    this.#timers.set("connect", this.#timing.connectMs, () => this.#lose({ reason: "no answer" }));
    try {
      await this.#prepare(dial.signal);
      const token = await this.#credentials.get();
      if (!dial.signal.aborted) this.#open(token);
    } catch (error) {
      if (!dial.signal.aborted) this.#fail(error);
    }
  }

  /** See to it that there is a session, and a cursor to read on from. */
  async #prepare(signal) {
    if (!this.sessionId) {
      const made = await this.#rest.createSession(this.#options.metadata, signal);
      if (signal.aborted) return;
      this.sessionId = made.session_id;
      this.cursor = NEW_SESSION_CURSOR;
    } else if (!this.cursor) {
      const { pageSize: limit } = this.#options;
      const page = await this.#rest.messages(this.sessionId, { limit }, signal);
      if (signal.aborted) return;
      this.cursor = page.cursor;
      this.#tell("reset", page);
    }
  }

  #open(token) {
    const isCurrent = () => socket === this.#socket;
    const socket = openSocket(this.#options.WebSocket, {
      url: socketUrl(this.#base, this.sessionId, this.cursor),
      token,
      opened: () => isCurrent() && !fitsSubprotocol(token) && this.#authenticate(token),
      heard: (frame) => isCurrent() && this.#hear(frame),
      closed: (why) => isCurrent() && this.#lose(why),
    });
    this.#socket = socket;
  }

  #fail(error) {
    const { status, retryable, retryAfterMs, message } = error;
    if (status === 401) this.#lose({ code: CloseCode.UNAUTHORIZED, reason: message });
    else if (error.code === "session_not_found") this.#finish(CloseCode.SESSION_GONE, message);
    else if (status && !retryable) this.#finish(status, message);
    else this.#lose({ reason: message, afterMs: retryAfterMs });
  }

  /** The connection, or the try to get one, is over: go on, or stop for good. */
  #lose({ code = CloseCode.BROKEN, reason = "", afterMs = null }) {
    const why = reason || this.#complaint || "";
    const isRefused = code === CloseCode.UNAUTHORIZED && !this.#credentials.refuse();
    if (isRefused || (isFinal(code) && code !== CloseCode.UNAUTHORIZED)) {
      this.#finish(code, why);
      return;
    }
    if (code === CloseCode.TOKEN_EXPIRED) this.#credentials.forget();
    this.#wait(afterMs ?? this.#timers.leftMs("leave"));
  }

  #wait(afterMs) {
    this.#stop();
    const usualMs = this.#patience.nextMs(Date.now());
    const delayMs = isOffline() ? this.#timing.backoffCapMs : (afterMs ?? usualMs);
    this.retryAt = Date.now() + delayMs;
    this.#timers.set("retry", delayMs, () => this.#begin());
    this.#to(isOffline() ? "offline" : "waiting", { retryInMs: delayMs });
  }

  #finish(code, reason) {
    this.#stop();
    this.#timers.clearAll();
    this.#sending.stop();
    this.#life?.abort();
    this.#openTurn = this.#cancelled = null;
    this.closedBy = { code, reason: reason || this.#complaint || "" };
    if (code === CloseCode.SESSION_GONE) this.#sending.refuseAll(this.closedBy.reason);
    this.#to("closed", { closedBy: this.closedBy });
  }

  /** Let go of the connection, and of what would happen to it. */
  #stop() {
    const socket = this.#socket;
    this.#socket = null;
    this.#dial?.abort();
    this.retryAt = null;
    this.#timers.clear(...PER_CONNECTION);
    this.#pulse.stop();
    socket?.close(CloseCode.NORMAL);
  }

  // What the gateway says

  #hear(frame) {
    this.#pulse.heard();
    if (frame.id) {
      this.cursor = frame.id;
      this.#patience.rest();
    }
    if (frame.type === "ready" && !this.#greet(frame)) return;
    this.#heed(frame);
    this.#tell(frame.type, frame);
  }

  #heed(frame) {
    switch (frame.type) {
      case "accepted":
        this.#patience.rest();
        this.#sending.settle(frame.request_id);
        break;
      case "start":
        this.#openTurn = frame.turn;
        this.#sending.settle(frame.request_id);
        break;
      case "complete":
        this.#openTurn = this.#cancelled = null;
        break;
      case "error":
        if (frame.turn !== undefined || frame.code === "nothing_to_cancel") {
          this.#openTurn = this.#cancelled = null;
        } else {
          if (frame.request_id === undefined) this.#complaint = frame.message;
          this.#sending.refuse(frame);
        }
        break;
      case "reconnect":
        this.#timers.set("leave", frame.after_ms, () => this.#begin());
    }
  }

  /** Take `ready` in; false if that led nowhere: no reading on from here, or closed at once. */
  #greet(frame) {
    if (!frame.resumed) {
      // What is missing is in the history, and its cursor says where to go on.
      this.cursor = null;
      this.#wait(this.#patience.isFresh ? 0 : null);
      return false;
    }
    this.#timers.clear("connect");
    this.#credentials.prove();
    this.cursor = frame.cursor;
    this.limits = frame.limits;
    this.#complaint = null;
    this.#openTurn = frame.turn?.turn ?? null;
    this.#patience.opened(Date.now());
    this.#pulse.watch(2000 * frame.heartbeat_s + this.#timing.silenceMs);
    this.#planRenewal();
    const previous = this.state;
    this.state = "open";
    // Before anybody is told, who may send something newer.
    this.#catchUp();
    this.#tell("state", { state: "open", previous });
    return this.state === "open";
  }

  /** Say what could not be said before. */
  #catchUp() {
    const { entries } = this.#sending;
    this.#sending.sendAll();
    const pending = this.#cancelled;
    this.#cancelled = null;
    if (!pending) return;
    // What is over by now needs no cancel; what was only just sent is open when this arrives.
    const turn = pending.turn ?? this.#openTurn;
    if (turn === this.#openTurn && (turn !== null || entries.length > 0)) this.cancel(turn);
  }

  #planRenewal() {
    const afterMs = this.#credentials.renewInMs(Date.now(), this.#timing.renewBeforeMs);
    if (afterMs !== null) this.#timers.set("renew", afterMs, () => this.#renew(this.#socket));
  }

  async #renew(socket) {
    // If there is no new one, the gateway closes with 4001 in time, and another try is made.
    const token = await this.#credentials.renew().catch(() => null);
    if (socket !== this.#socket) return;
    this.#authenticate(token);
    this.#planRenewal();
  }

  // Messages on their way

  #post(entry) {
    if (this.state === "closed") throw new Error(`the client is closed: ${this.closedBy.reason}`);
    return this.#sending.post(entry);
  }

  #forSending() {
    return {
      maxBytes: () => (this.state === "open" ? this.limits.max_frame_bytes : null),
      transmit: (text) => this.#socket.send(text),
      tell: (type, detail) => this.#tell(type, detail),
      backoff: (tries) => this.#patience.waitMs(tries),
      sendForMs: this.#timing.sendForMs,
    };
  }

  // The rest of the world

  /** Something has changed for the better: try at once, or see whether there still is a line. */
  #wake() {
    if (this.state === "waiting" || this.state === "offline") this.#begin();
    else if (this.state === "open") this.#pulse.probe();
  }

  #doubt() {
    if (this.state === "waiting") this.#wait(null);
    else if (this.state === "open") this.#pulse.probe();
  }

  #say(frame) {
    this.#socket.send(JSON.stringify(frame));
  }

  #authenticate(token) {
    if (token !== null) this.#say({ type: "auth", token });
  }

  #to(state, more = {}) {
    const previous = this.state;
    this.state = state;
    if (state !== previous) this.#tell("state", { state, previous, ...more });
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
