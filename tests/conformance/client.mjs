// The reference fold once more (see fold.py), as an author of a client in JavaScript might begin.

const ENDED = { stop: "complete", length: "complete" };

export class Conversation {
  cursor = "0.0.end";
  #turns = new Map();

  get turns() {
    return [...this.#turns.values()].sort((one, other) => one.turn - other.turn);
  }

  get open() {
    return this.turns.findLast(({ status }) => status === "queued" || status === "running") ?? null;
  }

  reset(page) {
    this.#turns.clear();
    this.load(page);
  }

  load({ cursor, messages }) {
    this.cursor = cursor;
    for (const { turn: number, role, content, finish_reason, replaced_by } of messages) {
      if (number === null) continue;
      if (role === "user") this.#begin(number, content, replaced_by);
      else this.#change(number, { reply: { content }, status: ENDED[finish_reason] ?? finish_reason });
    }
  }

  apply(frame) {
    const { type, turn: number, code } = frame;
    if (type === "ready") this.cursor = frame.cursor;
    if (type === "start") this.#start(frame);
    if (type === "queued") this.#change(number, { status: "queued" });
    if (type === "token") {
      const content = this.#turns.get(number).reply.content + frame.content;
      this.#change(number, { status: "running", reply: { content } });
    }
    if (type === "complete") this.#change(number, { status: ENDED[frame.finish_reason] ?? frame.finish_reason });
    if (type === "error" && number !== undefined) {
      this.#change(number, { status: code === "interrupted" ? code : "error", error: { code } });
    }
    this.cursor = frame.id ?? this.cursor;
  }

  #start({ turn: number, user_message, replaces = number }) {
    this.#begin(number, user_message.content, this.#turns.get(number)?.replacedBy);
    for (const turn of this.#turns.values()) {
      if (turn.turn >= replaces && turn.turn < number) turn.replacedBy ??= number;
    }
  }

  #begin(number, content, replacedBy) {
    const turn = { turn: number, status: "running", user: { content }, reply: { content: "" } };
    this.#turns.set(number, { ...turn, error: null, replacedBy });
  }

  #change(number, news) {
    Object.assign(this.#turns.get(number) ?? {}, news);
  }
}
