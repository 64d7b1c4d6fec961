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

const PROTOCOL = "midm.chat.v1";

// Sent again by the client with the same request_id, as protocol.md says. Not `turn_in_progress`:
// only the user knows whether to wait, or to cancel what is being written.
const TRIED_AGAIN = new Set([
  ...["rate_limited", "queue_full", "upstream_unavailable", "upstream_timeout"],
  ...["storage_error", "shutting_down"],
]);

/** Whether a refused message is sent again without asking anybody. */
export function isTriedAgain(code) {
  return TRIED_AGAIN.has(code);
}

/** Whether a close code forbids to come back. */
export function isFinal(code) {
  return code >= 4500 && code <= 4999;
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

/** Open a WebSocket; what happens to it is told to `opened`, `heard` and `closed`. */
export function openSocket(WebSocket, { url, token, opened, heard, closed }) {
  // A page can send no header; as a subprotocol the token is there before anybody has to wait.
  const isIn = token !== null && fitsSubprotocol(token);
  const socket = new WebSocket(url, isIn ? [PROTOCOL, `bearer.${token}`] : [PROTOCOL]);
  socket.onopen = opened;
  socket.onmessage = ({ data }) => heard(JSON.parse(data));
  socket.onclose = ({ code, reason }) => closed({ code, reason });
  socket.onerror = () => {}; // `close` follows, and knows more
  return socket;
}

/** Whether a token can be a subprotocol (RFC 7230, section 3.2.6); if not, it is a frame. */
export function fitsSubprotocol(token) {
  return token === null || /^[A-Za-z0-9._~+-]+$/.test(token);
}
