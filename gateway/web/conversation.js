/**
 * What a chat looks like after all that was heard of it: a fold of messages pages and frames.
 *
 * No DOM, no network, no clock. What is known already changes nothing when it is heard again, so
 * pages and frames may overlap in any way: after a cut, a second snapshot, an older page.
 */

/**
 * Compare two cursors, `<turn>.<attempt>.<offset or end>`: below 0 if `a` is earlier.
 * @param {string} a
 * @param {string} b
 */
export function compareCursors(a, b) {
  const left = parseCursor(a);
  const right = parseCursor(b);
  return left.turn - right.turn || left.attempt - right.attempt || sign(left.offset, right.offset);
}

/** Take a cursor apart; `end` is Infinity. */
export function parseCursor(cursor) {
  const [turn, attempt, offset] = cursor.split(".");
  return {
    turn: Number(turn),
    attempt: Number(attempt),
    offset: offset === "end" ? Infinity : Number(offset),
  };
}

/** Count what offsets count: Unicode code points. */
export function codePoints(text) {
  let count = text.length;
  for (let at = 0; at < text.length - 1; at += 1) {
    if (isPair(text, at)) {
      count -= 1;
      at += 1;
    }
  }
  return count;
}

/**
 * @typedef {import("./midm-chat.d.ts").Turn} Turn
 * @typedef {import("./midm-chat.d.ts").Message} Message
 * @typedef {Pick<import("./midm-chat.d.ts").MessagesPage, "messages" | "cursor">} Page
 * @typedef {import("./midm-chat.d.ts").ServerFrame} ServerFrame
 */

export class Conversation {
  /** The turns in order. They are the same objects all the time. @type {Turn[]} */
  turns = [];

  /** Messages that belong to no turn, as databases of the original have. @type {Message[]} */
  loose = [];

  /** Where to read on: the latest of what was loaded and applied. @type {string | null} */
  cursor = null;

  #places = new Map(); // turn number -> { turn, attempt, offset }; offset Infinity: it is over

  /** The turns that no other one replaced. @type {Turn[]} */
  get visible() {
    return this.turns.filter((turn) => turn.replacedBy === null);
  }

  /** The turn that is not over yet, or null. @type {Turn | null} */
  get open() {
    const last = this.turns.at(-1);
    return last && !isOver(last) ? last : null;
  }

  /** The turn of that number. @param {number | null} number @returns {Turn | null} */
  turn(number) {
    return this.#places.get(number)?.turn ?? null;
  }

  /**
   * What was asked before in the place of this turn, oldest first, without the turn itself.
   * @param {number} number
   * @returns {Turn[]}
   */
  versions(number) {
    const chain = [];
    let turn = this.turn(number);
    while (turn && (turn = this.turn(turn.replaces))) chain.unshift(turn);
    return chain;
  }

  /** Forget everything and begin with a page, as after a client's `reset`. @param {Page} page */
  reset(page) {
    this.turns = [];
    this.loose = [];
    this.cursor = null;
    this.#places.clear();
    this.load(page);
  }

  /**
   * Take a page of the history in: the newest, an older one, one with replaced turns.
   * @param {Page} page
   */
  load(page) {
    const at = page.cursor ? parseCursor(page.cursor) : null;
    const byTurn = new Map();
    for (const message of page.messages) {
      if (message.turn === null) this.#addLoose(message);
      else byTurn.set(message.turn, { ...byTurn.get(message.turn), [message.role]: message });
    }
    for (const [number, rows] of byTurn) this.#loadTurn(number, rows, at);
    this.#findReplaced();
    if (page.cursor) this.#moveTo(page.cursor);
  }

  /**
   * Take a frame in; return the turn that it changed, or null.
   * @param {ServerFrame} frame
   * @returns {Turn | null}
   */
  apply(frame) {
    const changed = this.#fold(frame);
    if (frame.id) this.#moveTo(frame.id);
    return changed;
  }

  #fold(frame) {
    if (frame.type === "start") return this.#start(frame);
    if (frame.type === "ready") return this.#greet(frame.turn);
    const place = this.#places.get(frame.turn);
    if (!place) return null;
    if (isTerminal(frame)) return end(place, frame);
    if (frame.type === "token") return grow(place, frame);
    return frame.type === "queued" ? queue(place, frame) : null;
  }

  #start(frame) {
    const { attempt, offset } = parseCursor(frame.id);
    const place = this.#place(frame.turn);
    const { turn } = place;
    turn.user ??= userOf(frame.user_message);
    turn.reply.messageId = frame.message_id;
    if (frame.replaces !== undefined) this.#replace(frame.replaces, turn);
    if (place.offset === Infinity || attempt < place.attempt) return turn;
    // Whatever is shown of its reply is void (protocol.md).
    Object.assign(place, { attempt, offset });
    Object.assign(turn, { attempt, status: "running", queue: null, error: null });
    Object.assign(turn.reply, { content: "", tokenCount: 0 });
    return turn;
  }

  #greet(open) {
    const place = open && this.#places.get(open.turn);
    if (!place || place.offset === Infinity || open.status !== "queued") return null;
    return queue(place, open);
  }

  #loadTurn(number, rows, at) {
    const isNewest = at !== null && at.turn === number;
    const place = this.#place(number);
    const { turn } = place;
    const { user, assistant } = rows;
    if (user) turn.user = userOf(user);
    const replacedBy = (user ?? assistant ?? {}).replaced_by;
    if (replacedBy !== undefined) turn.replacedBy = replacedBy;
    if (assistant) finish(place, assistant, isNewest ? at.attempt : null);
    else if (isNewest && at.offset !== Infinity) this.#loadOpen(place, at);
    else if (place.attempt === 0) abandon(place);
  }

  #loadOpen(place, at) {
    if (place.offset === Infinity || place.attempt >= at.attempt) return;
    Object.assign(place, { attempt: at.attempt, offset: 0 });
    Object.assign(place.turn, { attempt: at.attempt, status: "running", queue: null });
    Object.assign(place.turn.reply, { content: "", tokenCount: 0 });
  }

  #addLoose(message) {
    if (!this.loose.some((known) => known.message_id === message.message_id)) {
      this.loose.push(message);
      this.loose.sort((a, b) => (a.created_at < b.created_at ? -1 : 1));
    }
  }

  /** Find what is known of a turn, or begin to know it. */
  #place(number) {
    let place = this.#places.get(number);
    if (!place) {
      place = { turn: emptyTurn(number), attempt: 0, offset: 0 };
      this.#places.set(number, place);
      let at = this.turns.length;
      while (at > 0 && this.turns[at - 1].turn > number) at -= 1;
      this.turns.splice(at, 0, place.turn);
    }
    return place;
  }

  #replace(from, by) {
    by.replaces = from;
    for (const turn of this.turns) {
      const isHidden = turn.turn >= from && turn.turn < by.turn && turn.replacedBy === null;
      if (isHidden) turn.replacedBy = by.turn;
    }
  }

  // A page does not say what a turn replaces; but that is the first of those it hid.
  #findReplaced() {
    for (const { turn: number, replacedBy } of this.turns) {
      const by = this.turn(replacedBy);
      if (by && (by.replaces === null || number < by.replaces)) by.replaces = number;
    }
  }

  #moveTo(cursor) {
    if (this.cursor === null || compareCursors(cursor, this.cursor) > 0) this.cursor = cursor;
  }
}

function emptyTurn(number) {
  return {
    turn: number,
    attempt: null,
    status: "running",
    user: null,
    reply: {
      messageId: null,
      content: "",
      finishReason: null,
      tokenCount: 0,
      totalTokens: null,
      tokenUsage: null,
      timing: null,
      createdAt: null,
    },
    queue: null,
    error: null,
    replaces: null,
    replacedBy: null,
  };
}

/** Append what is new in a piece of text: all of it, the rest, or nothing. */
function grow(place, { id, content, token_count }) {
  const { attempt, offset } = parseCursor(id);
  if (attempt !== place.attempt || offset <= place.offset) return null;
  const known = place.offset - (offset - codePoints(content));
  const { turn } = place;
  turn.reply.content += known > 0 ? [...content].slice(known).join("") : content;
  turn.reply.tokenCount = token_count;
  turn.status = "running";
  turn.queue = null;
  place.offset = offset;
  return turn;
}

function queue(place, { position, eta_ms }) {
  if (place.offset > 0) return null;
  place.turn.status = "queued";
  place.turn.queue = { position: position ?? null, etaMs: eta_ms ?? null };
  return place.turn;
}

/** Take in the last event of a turn. */
function end(place, frame) {
  const { attempt } = parseCursor(frame.id);
  if (attempt < place.attempt) return null;
  const { turn } = place;
  Object.assign(place, { attempt, offset: Infinity });
  Object.assign(turn, { attempt, queue: null });
  if (frame.message_id) turn.reply.messageId = frame.message_id;
  if (frame.type === "error") {
    turn.reply.finishReason = frame.code === "interrupted" ? "interrupted" : "error";
    turn.error = errorOf(frame);
  } else {
    turn.reply.finishReason = frame.finish_reason;
    turn.reply.totalTokens = frame.total_tokens;
    turn.reply.tokenUsage = frame.token_usage;
    turn.reply.timing = frame.timing;
    turn.reply.createdAt = frame.created_at;
  }
  turn.status = statusOf(turn.reply.finishReason);
  return turn;
}

/** Take in a reply that is stored: its turn is over. */
function finish(place, row, attempt) {
  const { turn } = place;
  if (attempt !== null) place.attempt = turn.attempt = attempt;
  place.offset = Infinity;
  turn.status = statusOf(row.finish_reason);
  turn.queue = null;
  turn.reply.messageId = row.message_id;
  turn.reply.content = row.content;
  turn.reply.finishReason = row.finish_reason;
  turn.reply.tokenUsage = row.token_usage;
  turn.reply.createdAt = row.created_at;
}

/** A question that is stored without a reply, and is not the open one: an adopted database. */
function abandon(place) {
  place.offset = Infinity;
  place.turn.status = "interrupted";
  place.turn.reply.finishReason = "interrupted";
}

function statusOf(finishReason) {
  const told = ["cancelled", "error", "interrupted"];
  return told.includes(finishReason) ? finishReason : "complete";
}

function isOver(turn) {
  return turn.status !== "running" && turn.status !== "queued";
}

function isTerminal(frame) {
  return Boolean(frame.id) && (frame.type === "complete" || frame.type === "error");
}

function userOf(message) {
  const { message_id, content, created_at } = message;
  return { messageId: message_id, content, createdAt: created_at };
}

function errorOf({ code, message, retryable, retry_after_ms }) {
  return { code, message, retryable, retryAfterMs: retry_after_ms ?? null };
}

function isPair(text, at) {
  return isBetween(text.charCodeAt(at), 0xd800, 0xdbff)
    && isBetween(text.charCodeAt(at + 1), 0xdc00, 0xdfff);
}

function isBetween(code, first, last) {
  return code >= first && code <= last;
}

// Not a difference: that of two ends would be NaN.
function sign(a, b) {
  return a === b ? 0 : a < b ? -1 : 1;
}
