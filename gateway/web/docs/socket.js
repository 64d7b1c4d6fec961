// One WebSocket at a time to this gateway, and what it has said. No page.

/** Where the gateway's WebSocket is, from a page of its own. */
export function address({ session, after }, base = location.href) {
  const url = new URL("/ws", base);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  if (session) url.searchParams.set("session_id", session);
  if (after) url.searchParams.set("after", after);
  return url.href;
}

/** Events: `state` (idle, connecting, open), `frame` ({way, text, frame}), `closed` ({code, reason}). */
export class Wire extends EventTarget {
  #socket = null;
  session = "";
  cursor = "";

  /** Connect; a key goes ahead as the first frame. */
  open({ session, after, key }) {
    this.close();
    const socket = new WebSocket(address({ session, after }), ["midm.chat.v1"]);
    this.#socket = socket;
    this.#tell("state", "connecting");
    socket.addEventListener("open", () => {
      if (socket !== this.#socket) return;
      this.#tell("state", "open");
      if (key) this.send(JSON.stringify({ type: "auth", token: key }));
    });
    socket.addEventListener("message", ({ data }) => socket === this.#socket && this.#take(data));
    socket.addEventListener("close", ({ code, reason }) => {
      if (socket !== this.#socket) return;
      this.#socket = null;
      this.#tell("closed", { code, reason });
      this.#tell("state", "idle");
    });
  }

  /** Close, as a client that is done. */
  close() {
    this.#socket?.close(1000);
  }

  /** Send text as it is; false if there is no open socket. */
  send(text) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(text);
    this.#tell("frame", { way: "out", text, frame: parsed(text) });
    return true;
  }

  #take(text) {
    const frame = parsed(text);
    if (frame?.type === "ready") {
      this.session = frame.session_id;
      this.cursor = frame.cursor;
    }
    this.cursor = frame?.id ?? this.cursor;
    this.#tell("frame", { way: "in", text, frame });
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

function parsed(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" ? value : null;
  } catch {
    return null; // typed by hand
  }
}
