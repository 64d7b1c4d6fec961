/** The calls of REST that a client needs. */

import { Credentials } from "./credentials.js";
import { baseOf, TIMING } from "./wire.js";

/** An error as the gateway says it, or one that kept a call from being answered. */
export class ChatError extends Error {
  constructor({ code, message, retryable = false, retryAfterMs = null, status = null }) {
    super(message);
    this.name = "ChatError";
    this.code = code;
    this.retryable = retryable;
    this.retryAfterMs = retryAfterMs;
    this.status = status;
  }
}

export class Rest {
  #base;
  #fetch;
  #credentials;
  #callMs;

  constructor({ base, fetch, credentials, callMs }) {
    this.#base = base;
    this.#fetch = fetch;
    this.#credentials = credentials;
    this.#callMs = callMs;
  }

  /** Begin a session; rejects with `ChatError`. */
  createSession(metadata, signal) {
    const body = JSON.stringify({ metadata });
    return this.#call("api/sessions", { method: "POST", body }, signal);
  }

  /** Load a page of messages; rejects with `ChatError`. */
  messages(sessionId, { limit, before, includeReplaced } = {}, signal) {
    const query = new URLSearchParams();
    if (limit !== undefined) query.set("limit", String(limit));
    if (before !== undefined && before !== null) query.set("before", before);
    if (includeReplaced) query.set("include", "replaced");
    const path = `api/sessions/${encodeURIComponent(sessionId)}/messages?${query}`;
    return this.#call(path, { method: "GET" }, signal);
  }

  async #call(path, request, signal) {
    const token = await this.#credentials.get();
    try {
      return await this.#send(path, { ...request, token }, signal);
    } catch (error) {
      if (error.status !== 401 || !this.#credentials.isRenewable) throw error;
      return this.#send(path, { ...request, token: await this.#credentials.renew() }, signal);
    }
  }

  async #send(path, { method, body, token }, signal) {
    const headers = body === undefined ? {} : { "Content-Type": "application/json" };
    if (token) headers.Authorization = `Bearer ${token}`;
    // Not AbortSignal.any and timeout: half of the browsers in use lack the first, and what the
    // second starts goes on when the call is over.
    const late = new AbortController();
    const giveUp = () => late.abort();
    const timer = setTimeout(giveUp, this.#callMs);
    signal?.addEventListener("abort", giveUp);
    if (signal?.aborted) giveUp();
    try {
      const options = { method, headers, body, cache: "no-store", signal: late.signal };
      const fetch = this.#fetch; // as a function: browsers do not let it be a method
      return await answerOf(await fetch(new URL(path, this.#base).href, options));
    } catch (error) {
      throw error instanceof ChatError ? error : unreachable(error);
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", giveUp);
    }
  }
}

/**
 * Begin a session; rejects with `ChatError`.
 * @param {Pick<import("./midm-chat.d.ts").ClientOptions, "url"|"token"|"metadata"|"fetch">} [options]
 * @returns {Promise<import("./midm-chat.d.ts").Session>}
 */
export async function createSession({ url, token, metadata = {}, fetch = globalThis.fetch } = {}) {
  const base = baseOf(url ?? ownGateway());
  const credentials = new Credentials(token);
  return new Rest({ base, fetch, credentials, callMs: TIMING.callMs }).createSession(metadata);
}

/** Say which gateway these files were loaded from, as `web/…` below wherever it is. */
export function ownGateway() {
  return new URL("../", import.meta.url);
}

async function answerOf(reply) {
  const { status } = reply;
  const answer = await reply.json().catch(() => null);
  if (reply.ok && answer !== null) return answer;
  const seconds = Number(reply.headers.get("Retry-After"));
  throw new ChatError({
    code: answer?.code ?? "internal",
    message: answer?.detail ?? `The gateway answered with ${status}.`,
    retryable: answer?.retryable ?? (reply.ok || status >= 500 || status === 429),
    retryAfterMs: seconds > 0 ? seconds * 1000 : null,
    status,
  });
}

function unreachable(error) {
  const message = `The gateway cannot be reached: ${error.message}`;
  return new ChatError({ code: "unreachable", message, retryable: true });
}
