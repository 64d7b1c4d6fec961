/** How long to wait before the next try. */

/**
 * Full jitter: any wait from nothing to a bound that doubles with each try, up to the cap.
 * @param {number} tries
 * @param {{backoffBaseMs: number, backoffCapMs: number}} timing
 * @param {() => number} [random]
 */
export function backoffMs(tries, { backoffBaseMs, backoffCapMs }, random = Math.random) {
  return random() * Math.min(backoffCapMs, backoffBaseMs * 2 ** Math.min(tries, 30));
}

/** Counts the tries that came to nothing. All moments are milliseconds of one clock. */
export class Patience {
  #tries = 0;
  #openedAt = null;
  #timing;
  #random;

  constructor(timing, random) {
    this.#timing = timing;
    this.#random = random;
  }

  /** Whether no try has failed since the last one that was of use. */
  get isFresh() {
    return this.#tries === 0;
  }

  /** A connection is there; whether it is of use is yet to be seen. */
  opened(now) {
    this.#openedAt = now;
  }

  /** It was of use: the next wait begins small again. */
  rest() {
    this.#tries = 0;
  }

  /** A try, or a connection, has ended: say how long to wait before the next one. */
  nextMs(now) {
    if (this.#openedAt !== null && now - this.#openedAt >= this.#timing.stableMs) this.rest();
    this.#openedAt = null;
    const waitMs = this.waitMs(this.#tries);
    this.#tries += 1;
    return waitMs;
  }

  /** Say how long to wait after so many tries. */
  waitMs(tries) {
    return backoffMs(tries, this.#timing, this.#random);
  }
}
