/** Messages on their way: what is sent when, and what is told of it. */

import { frameOf, Outbox, tooLong } from "./outbox.js";
import { Timers } from "./surroundings.js";

export class Sending {
  #outbox;
  #timers = new Timers(); // of each message that is to be sent again, by its request id
  #client;

  /**
   * `client` is `{ maxBytes(), transmit(text), tell(type, detail), backoff(tries), sendForMs }`;
   * `maxBytes` is null while nothing can be sent.
   */
  constructor(client, entries) {
    this.#client = client;
    this.#outbox = new Outbox(entries);
  }

  get entries() {
    return this.#outbox.entries;
  }

  /** Keep an entry until it is known what became of it, and send it; raises RangeError. */
  post(entry) {
    this.#outbox.add(entry);
    const { requestId, message, turn, replaces } = entry;
    this.#client.tell("sent", { requestId, message, replaces: replaces ?? turn ?? null });
    this.#transmit(entry);
    return requestId;
  }

  /** Send what was refused once more; false if it is not known any more. */
  retry(requestId) {
    if (!this.#outbox.revive(requestId)) return false;
    this.#transmit(this.entries.find((entry) => entry.requestId === requestId));
    return true;
  }

  /** There is a new connection: send everything on it, in order. */
  sendAll() {
    for (const entry of this.entries) this.#transmit(entry);
  }

  /** It is stored, whatever it was. */
  settle(requestId) {
    if (requestId !== undefined && this.#outbox.settle(requestId)) this.#timers.clear(requestId);
  }

  /** The gateway said an error: if it is about a message, send that again later, or give it up. */
  refuse(error) {
    const requestId = error.request_id;
    // The connection is about to be closed, and what is to be done then depends on the token.
    if (error.code === "unauthorized") return;
    const { sendForMs, backoff, tell } = this.#client;
    const verdict = this.#outbox.refuse(requestId, error, { now: Date.now(), sendForMs, backoff });
    if (!verdict) return;
    const { entry, afterMs } = verdict;
    const detail = { requestId, message: entry.message, error };
    if (afterMs === null) return void tell("refused", detail);
    this.#timers.set(requestId, afterMs, () => this.#transmit(entry));
    tell("delayed", { ...detail, retryInMs: afterMs });
  }

  /** Give everything up: the session is gone, and all that was stored in it. */
  refuseAll(text) {
    const error = { type: "error", code: "session_not_found", message: text, retryable: false };
    for (const { requestId, message } of this.entries) {
      this.#outbox.drop(requestId);
      this.#client.tell("refused", { requestId, message, error });
    }
  }

  /** Send nothing more by itself. */
  stop() {
    this.#timers.clearAll();
  }

  #transmit(entry) {
    const maxBytes = this.#client.maxBytes();
    if (maxBytes === null) return;
    this.#timers.clear(entry.requestId);
    const text = JSON.stringify(frameOf(entry));
    const error = tooLong(text, maxBytes);
    if (error) this.refuse({ ...error, request_id: entry.requestId });
    else this.#client.transmit(text);
  }
}
