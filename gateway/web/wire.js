/** How to speak to the gateway, and what its answers mean. Nothing in here keeps anything. */

/** Times in milliseconds; a client takes others for any of them as its option `timing`. */
export const TIMING = Object.freeze({
  /** The longest the first wait before a new try may be; each further one may be twice as long. */
  backoffBaseMs: 500,
  /** No wait before a new try is longer, unless the gateway asks for that. */
  backoffCapMs: 15_000,
  /** From the first step of a try to `ready`. */
  connectMs: 15_000,
  /** For one call of REST. */
  callMs: 30_000,
  /** Beyond two heartbeats: after so long without a word a connection is given up. */
  silenceMs: 5_000,
  /** For an answer, when the connection may have been lost. */
  probeMs: 5_000,
  /** A connection that lasted so long was a good one: the next wait begins small again. */
  stableMs: 10_000,
  /** For how long a message that is refused for now is sent again. */
  sendForMs: 30_000,
  /** So long before it expires a token is renewed. */
  renewBeforeMs: 30_000,
});

export const CloseCode = Object.freeze({
  NORMAL: 1000,
  BROKEN: 1006,
  TOKEN_EXPIRED: 4001,
  UNAUTHORIZED: 4500,
  SESSION_GONE: 4504,
});

// Sent again by the client with the same request_id, as protocol.md says. Not `turn_in_progress`:
// only the user knows whether to wait, or to cancel what is being written.
const TRIED_AGAIN = new Set([
  ...["rate_limited", "queue_full", "upstream_unavailable", "upstream_timeout"],
  ...["storage_error", "shutting_down"],
]);

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

/** Whether a refused message is sent again without asking anybody. */
export function isTriedAgain(code) {
  return TRIED_AGAIN.has(code);
}

/** Whether a close code forbids to come back. */
export function isFinal(code) {
  return code >= 4500 && code <= 4999;
}

/** Full jitter: any wait from nothing to a bound that doubles with each try, up to the cap. */
export function backoffMs(tries, { backoffBaseMs, backoffCapMs }, random = Math.random) {
  return random() * Math.min(backoffCapMs, backoffBaseMs * 2 ** Math.min(tries, 30));
}

/** Make up a request_id that nobody else has. */
export function newRequestId() {
  const { crypto } = globalThis;
  if (crypto?.randomUUID) return crypto.randomUUID();
  // Pages of plain http on another machine have the one and not the other.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Say where a gateway is, ending in a slash; raises TypeError for what is no address of one. */
export function baseOf(url) {
  const base = new URL(url);
  base.protocol = base.protocol.replace(/^ws/, "http");
  if (!/^https?:$/.test(base.protocol)) {
    throw new TypeError(`url: should begin with http:// or https://, given ${url}`);
  }
  if (!base.pathname.endsWith("/")) base.pathname += "/";
  base.search = base.hash = "";
  return base;
}

/** Say where a session's WebSocket is. */
export function socketUrl(base, sessionId, after) {
  const url = new URL("ws", base);
  url.protocol = url.protocol.replace(/^http/, "ws");
  url.searchParams.set("session_id", sessionId);
  url.searchParams.set("after", after);
  return url.href;
}

/** Offer our protocol, and a token where it fits (RFC 7230, section 3.2.6). */
export function subprotocols(token) {
  return fitsSubprotocol(token) ? ["midm.chat.v1", `bearer.${token}`] : ["midm.chat.v1"];
}

/** Whether a token can be in a handshake; if not, it goes in the first frame. */
export function fitsSubprotocol(token) {
  return token !== null && /^[A-Za-z0-9._~+-]+$/.test(token);
}

/** Begin a session; resolves to `{session_id, created_at, …}`, rejects with `ChatError`. */
export function postSession(line, metadata) {
  return call(line, "api/sessions", { method: "POST", body: JSON.stringify({ metadata }) });
}

/** Load a page of messages; rejects with `ChatError`. */
export function getMessages(line, sessionId, { limit, before, includeReplaced } = {}) {
  const query = new URLSearchParams();
  if (limit !== undefined) query.set("limit", String(limit));
  if (before !== undefined && before !== null) query.set("before", before);
  if (includeReplaced) query.set("include", "replaced");
  const path = `api/sessions/${encodeURIComponent(sessionId)}/messages`;
  return call(line, query.size ? `${path}?${query}` : path, { method: "GET" });
}

// `line` is { fetch, base, token, signal, callMs }.
async function call({ fetch, base, token, signal, callMs }, path, { method, body }) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  const late = new AbortController();
  const giveUp = () => late.abort();
  const timer = setTimeout(giveUp, callMs);
  signal?.addEventListener("abort", giveUp);
  try {
    const options = { method, headers, body, cache: "no-store", signal: late.signal };
    const reply = await fetch(new URL(path, base).href, options);
    const answer = await reply.json().catch(() => null);
    if (!reply.ok || answer === null) throw problem(reply, answer);
    return answer;
  } catch (error) {
    throw error instanceof ChatError ? error : unreachable(error);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", giveUp);
  }
}

function problem(reply, answer) {
  const { status } = reply;
  const seconds = Number(reply.headers.get("Retry-After"));
  return new ChatError({
    code: answer?.code ?? "internal",
    message: answer?.detail ?? `The gateway answered with ${status}.`,
    retryable: answer?.retryable ?? (status >= 500 || status === 429 || reply.ok),
    retryAfterMs: seconds > 0 ? seconds * 1000 : null,
    status,
  });
}

function unreachable(error) {
  const message = `The gateway cannot be reached: ${error.message}`;
  return new ChatError({ code: "unreachable", message, retryable: true });
}
