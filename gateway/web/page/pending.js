// Messages on their way: sent, and not known to be taken. No document and no network in here.

export class Pending {
  #list = []; // [{requestId, message, replaces, isRepeat, errorCode}]

  get isEmpty() {
    return this.#list.length === 0;
  }

  /** The first turn that one of them takes the place of; Infinity if there is none. */
  get replacesFrom() {
    return Math.min(...this.#list.map(({ replaces }) => replaces ?? Infinity));
  }

  get first() {
    return this.#list[0]?.message ?? "";
  }

  /** Add what the client says it sends; `asked(turn)` is the message of a turn. */
  add({ requestId, message, replaces, turn }, asked) {
    if (this.find(requestId)) return;
    const replaced = replaces ?? turn ?? null;
    const before = replaced && asked(replaced);
    const isRepeat = message === null || message === undefined || message === before;
    this.#list.push({ requestId, message: message ?? before ?? "", replaces: replaced, isRepeat });
  }

  find(requestId) {
    return this.#list.find((one) => one.requestId === requestId);
  }

  settle(requestId) {
    this.#list = this.#list.filter((one) => one.requestId !== requestId);
  }

  /** Give all of them up; returns what had been typed. */
  takeBack() {
    const typed = this.#list.filter(({ isRepeat }) => !isRepeat).map(({ message }) => message);
    this.#list = [];
    return typed.join("\n\n");
  }

  /** Each in the shape of a turn; `isHeld`: there is no connection. */
  asTurns({ isHeld }) {
    return this.#list.map(({ requestId, message, errorCode }) => (
      { turn: requestId, status: "pending", user: { content: message }, reply: null, errorCode, isHeld }
    ));
  }
}
