/**
 * Messages on their way: each is kept, and sent with the same request_id, until it is known to be
 * stored or refused for good. No timers and no sockets: the client has those.
 */

import { isTriedAgain, newRequestId } from "./wire.js";

const MAX_ENTRIES = 32;
const MAX_REFUSED = 16;
const OPTIONS = ["turn", "replaces", "maxNewTokens", "temperature", "doSample"];

export class Outbox {
  #waiting = new Map(); // request id -> { entry, tries, refusedAt }
  #refused = new Map(); // request id -> entry: may be asked for once more

  constructor(entries = []) {
    for (const entry of entries) this.add({ ...entry });
  }

  /** What is not known to be stored, in the order in which it was sent. */
  get entries() {
    return Array.from(this.#waiting.values(), ({ entry }) => ({ ...entry }));
  }

  has(requestId) {
    return this.#waiting.has(requestId);
  }

  /** Keep an entry; raises RangeError while there are too many. */
  add(entry) {
    if (this.#waiting.size >= MAX_ENTRIES) {
      throw new RangeError(`${MAX_ENTRIES} messages are waiting to be sent already`);
    }
    this.#refused.delete(entry.requestId);
    this.#waiting.set(entry.requestId, { entry, tries: 0, refusedAt: null });
  }

  /** It is stored. */
  settle(requestId) {
    return this.#waiting.delete(requestId);
  }

  /** Take back what was refused, for another try; false if it is not known any more. */
  revive(requestId) {
    const entry = this.#refused.get(requestId);
    if (entry) this.add(entry);
    return this.has(requestId);
  }

  /**
   * It was refused: say what to do, `{ entry, afterMs }` with null for "nothing, it is over";
   * null if nothing is known of it.
   */
  refuse(requestId, error, { now, sendForMs, backoff }) {
    const kept = this.#waiting.get(requestId);
    if (!kept) return null;
    const { entry } = kept;
    kept.refusedAt ??= now;
    const afterMs = error.retry_after_ms ?? backoff(kept.tries);
    kept.tries += 1;
    const isInTime = now + afterMs <= kept.refusedAt + sendForMs;
    if (isTriedAgain(error.code) && isInTime) return { entry, afterMs };
    this.drop(requestId);
    return { entry, afterMs: null };
  }

  /** Give an entry up; it may be revived for a while. */
  drop(requestId) {
    const kept = this.#waiting.get(requestId);
    this.#waiting.delete(requestId);
    this.#refused.set(requestId, kept.entry);
    if (this.#refused.size > MAX_REFUSED) this.#refused.delete(this.#refused.keys().next().value);
  }
}

/** Make an entry of what a caller asks; `message` null is the message of `turn` again. */
export function newEntry(message, options) {
  const entry = { requestId: newRequestId(), message };
  for (const name of OPTIONS) {
    if (options[name] !== undefined && options[name] !== null) entry[name] = options[name];
  }
  return entry;
}

/** Say an entry as a frame. */
export function frameOf({ requestId, message, turn, replaces, ...generation }) {
  const { maxNewTokens, temperature, doSample } = generation;
  return {
    ...(message === null ? { type: "regenerate", turn } : { type: "chat", message, replaces }),
    request_id: requestId,
    max_new_tokens: maxNewTokens,
    temperature,
    do_sample: doSample,
  };
}

/** Say what no gateway with such limits takes; null if it may be sent. It would only break off. */
export function tooLong(text, maxBytes) {
  const bytes = new TextEncoder().encode(text).length;
  if (bytes <= maxBytes) return null;
  const message = `The message takes ${bytes} bytes, and at most ${maxBytes} are allowed.`;
  return { type: "error", code: "message_too_long", message, retryable: false };
}
