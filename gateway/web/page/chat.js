// One conversation in view: its client, its turns, and what was sent and not taken yet.
//
// It says `turns` when anything but the open reply has changed, `text` when only that has grown,
// `state`, `known` when a new session has got its id, `opened` with each connection, `started`,
// `queued` and `ended` with the turn, `refused`, `failed`, and `gone` or `locked` when it cannot be read.

import { ChatClient, CloseCode, Conversation } from "../midm-chat.js";
import { newEntry } from "../outbox.js";
import { GATEWAY, messages } from "./api.js";
import { Loading } from "./loading.js";
import { Pending } from "./pending.js";
import { apiKey, NEW, outbox, saveOutbox } from "./store.js";

export class Chat extends EventTarget {
  /** `id` is null for a session that begins with its first message. */
  constructor(id) {
    super();
    this.id = id;
    this.conversation = new Conversation();
    this.pending = new Pending();
    this.nextBefore = null;
    this.client = null;
    this.loading = new Loading(() => {});
    this.refusal = null; // why the first page was not given
    this.isLeft = false;
    this.older = null;
    this.isRetrying = false;
  }

  get state() {
    return (this.client ?? this.loading).state;
  }

  /** When the next try begins, in milliseconds since 1970. */
  get retryAt() {
    return (this.client ?? this.loading).retryAt;
  }

  get closedBy() {
    return this.client ? this.client.closedBy : this.refusal;
  }

  /** What keeps the next message: "writing" a reply, "sending" one, being "gone", or null. */
  get waits() {
    if (this.closedBy?.code === CloseCode.SESSION_GONE) return "gone";
    if (this.conversation.open) return "writing";
    return this.pending.isEmpty ? null : "sending";
  }

  /** Load the newest messages, however often that has to be tried, and go on from there. */
  async open() {
    this.refusal = null;
    this.loading = new Loading(() => this.fire("state"));
    this.fire("state");
    const page = await this.loading.newest(this.id).catch(({ status }) => {
      this.refusal = { code: status === 401 ? CloseCode.UNAUTHORIZED : CloseCode.SESSION_GONE };
      this.loading.state = "closed";
      this.stateChanged();
    });
    if (!page || this.isLeft) return;
    this.take(page);
    this.connect(page.cursor);
  }

  leave() {
    this.isLeft = true;
    this.client?.close();
    this.loading.leave();
  }

  /** Try again now; the client begins anew, with what it has to send. */
  retryNow() {
    if (!this.client) return void (this.refusal ? this.open() : this.loading.wake());
    this.isRetrying = true;
    this.client.close();
    this.client.connect();
    this.isRetrying = false;
    this.stateChanged();
  }

  /** What was sent and not taken, taken back. */
  takeBack() {
    const typed = this.pending.takeBack();
    saveOutbox(this.id ?? NEW, []);
    this.fire("turns");
    return typed;
  }

  send(text, replaces) {
    if (this.state === "closed") this.retryNow();
    const options = replaces ? { replaces } : {};
    if (this.client) this.client.send(text, options);
    else this.hold(newEntry(text, options));
  }

  regenerate(turn) {
    if (this.state === "closed") this.retryNow();
    this.client.regenerate({ turn });
  }

  /** Keep a message for the client that there will be, or for that of the next page. */
  hold(entry) {
    saveOutbox(this.id, [...outbox(this.id), entry]);
    this.sent(entry);
  }

  stop() {
    const { open } = this.conversation;
    if (open) this.client.cancel(open.turn);
  }

  /** Load a page of older messages; false if there are none, or one is being loaded. */
  async loadOlder() {
    if (!this.nextBefore || this.older) return false;
    const before = this.nextBefore;
    this.older = messages(this.id, { before });
    try {
      const page = await this.older;
      if (this.nextBefore !== before) return false; // reset meanwhile: it fits nowhere
      this.nextBefore = page.next_before;
      this.conversation.load(page);
      return true;
    } catch {
      return false; // it is asked for again
    } finally {
      this.older = null;
    }
  }

  take(page) {
    this.nextBefore = page.next_before;
    this.conversation.load(page);
    this.fire("turns");
  }

  /** Connect; without an id a session is begun. */
  connect(cursor) {
    const kept = this.id ? outbox(this.id) : [];
    const client = new ChatClient({
      url: GATEWAY.href.replace(/\/$/, ""),
      sessionId: this.id ?? undefined,
      cursor,
      token: apiKey() ?? undefined,
      outbox: kept,
    });
    this.client = client;
    for (const message of kept) this.sent(message);
    const on = (type, listener) => client.addEventListener(type, ({ detail }) => this.isLeft || listener(detail));
    on("state", () => this.stateChanged());
    on("accepted", (frame) => this.settled(frame.request_id));
    on("start", (frame) => this.started(frame));
    on("token", (frame) => this.grown(frame));
    on("complete", (frame) => this.ended(frame));
    for (const type of ["ready", "sent", "delayed", "refused", "reset", "queued"]) on(type, (detail) => this[type](detail));
    on("error", (frame) => (frame.turn ? this.ended(frame) : this.failed(frame)));
    client.connect();
    this.fire("state");
  }

  stateChanged() {
    if (this.isRetrying) return;
    this.fire("state");
    if (!this.pending.isEmpty) this.fire("turns");
    if (this.state !== "closed" || !this.closedBy) return;
    this.fire("turns");
    if (this.closedBy.code === CloseCode.SESSION_GONE) this.fire("gone");
    if (this.closedBy.code === CloseCode.UNAUTHORIZED) this.fire("locked");
  }

  ready() {
    if (!this.id) {
      this.id = this.client.sessionId;
      saveOutbox(NEW, []);
      this.keepOutbox();
      this.fire("known");
    }
    this.fire("opened");
  }

  sent(message) {
    this.pending.add(message, (turn) => this.conversation.turn(turn)?.user?.content);
    this.keepOutbox();
    this.fire("turns");
  }

  /** So that a reload sends again what was not taken, and the gateway knows it for the same. */
  keepOutbox() {
    queueMicrotask(() => this.client && !this.isLeft && saveOutbox(this.id ?? NEW, this.client.outbox));
  }

  delayed({ requestId, error }) {
    const known = this.pending.find(requestId);
    if (known) known.errorCode = error.code;
    this.fire("turns");
  }

  refused({ requestId, message, error }) {
    const isRepeat = this.pending.find(requestId)?.isRepeat;
    this.settled(requestId);
    this.fire("refused", { message: isRepeat ? "" : message, code: error.code });
  }

  settled(requestId) {
    this.pending.settle(requestId);
    this.keepOutbox();
    this.fire("turns");
  }

  started(frame) {
    this.conversation.apply(frame);
    this.settled(frame.request_id);
    this.fire("started", frame);
  }

  queued(frame) {
    const isFirst = this.conversation.turn(frame.turn)?.queue === null;
    this.conversation.apply(frame);
    this.fire("turns");
    if (isFirst) this.fire("queued");
  }

  grown(frame) {
    const isFirst = !this.conversation.open?.reply?.content;
    this.conversation.apply(frame);
    this.fire(isFirst ? "turns" : "text");
  }

  ended(frame) {
    this.conversation.apply(frame);
    this.fire("turns");
    this.fire("ended", frame);
  }

  failed(frame) {
    // What is said of a message that is on its way comes as `delayed` or `refused`.
    if (!frame.request_id) this.fire("failed", frame);
  }

  reset(page) {
    this.nextBefore = page.next_before;
    this.conversation.reset(page);
    this.fire("turns");
    // The client's page has no replaced turns.
    messages(this.id).then((whole) => this.take(whole), () => {});
  }

  fire(type, detail) {
    if (!this.isLeft) this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
