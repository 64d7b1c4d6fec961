/** Whether the other side of a connection is still there. */

import { Timers } from "./surroundings.js";

export class Pulse {
  #timers = new Timers();
  #heardAt = 0;
  #probeMs;
  #ask;
  #lost;

  /** `ask` says something that has to be answered; `lost` is called when nothing is heard. */
  constructor({ probeMs, ask, lost }) {
    this.#probeMs = probeMs;
    this.#ask = ask;
    this.#lost = lost;
  }

  /** Something was heard, whatever it was. */
  heard() {
    this.#heardAt = Date.now();
    this.#timers.clear("probe");
  }

  /** From now on, so long a silence is a loss. */
  watch(limitMs) {
    const leftMs = this.#heardAt + limitMs - Date.now();
    if (leftMs <= 0) this.#lost();
    else this.#timers.set("silence", leftMs, () => this.watch(limitMs));
  }

  /** Ask whether somebody is still there; the answer has to come soon. */
  probe() {
    this.#ask();
    this.#timers.set("probe", this.#probeMs, this.#lost);
  }

  /** There is no connection to watch any more. */
  stop() {
    this.#timers.clearAll();
  }
}
