/** A token, and when to ask for the next one. */

export class Credentials {
  #source;
  #token = null;
  #expiresAt = null; // milliseconds since 1970
  #isAskedAnew = false;
  #asking = null;

  /** `source` is a token, a function that returns one or a promise of one, or nothing. */
  constructor(source) {
    this.#source = source ?? null;
  }

  /** Whether there may be another token than the one that is known. */
  get isRenewable() {
    return typeof this.#source === "function";
  }

  /** Say the token that is known, or ask for one; null if none is needed. */
  async get() {
    if (this.#token === null) await this.renew();
    return this.#token;
  }

  /** Ask for a token, whatever is known; it is asked for once, by however many at a time. */
  renew() {
    this.#asking ??= this.#ask().finally(() => (this.#asking = null));
    return this.#asking;
  }

  /** It is no good any more. */
  forget() {
    this.#token = null;
  }

  /** The gateway refused it: whether it is worth to ask for another one, which it is once. */
  refuse() {
    const isWorthIt = this.isRenewable && !this.#isAskedAnew;
    this.#isAskedAnew = true;
    this.forget();
    return isWorthIt;
  }

  /** The gateway took it. */
  prove() {
    this.#isAskedAnew = false;
  }

  /** Say in how many milliseconds to renew it; null if that is not known, or not possible. */
  renewInMs(now, renewBeforeMs) {
    if (!this.isRenewable || this.#expiresAt === null) return null;
    const leftMs = this.#expiresAt - now;
    return Math.max(leftMs - renewBeforeMs, leftMs / 2, 1000);
  }

  async #ask() {
    const source = this.#source;
    const given = typeof source === "function" ? await source() : source;
    const { token, expiresAt } = typeof given === "object" && given ? given : { token: given };
    this.#token = token || null;
    this.#expiresAt = expiresAt ?? expiryOf(this.#token);
    return this.#token;
  }
}

/** Read when a JWT expires (RFC 7519, section 4.1.4); null for whatever else a token may be. */
function expiryOf(token) {
  try {
    const payload = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const { exp } = JSON.parse(atob(payload));
    return Number.isFinite(exp) ? exp * 1000 : null;
  } catch {
    return null;
  }
}
