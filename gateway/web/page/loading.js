// The first page of a conversation, asked for until it comes.

import { CallFailed, messages } from "./api.js";

const RETRY_MS = [1000, 2000, 4000, 8000, 15_000];

export class Loading {
  /** `changed` is called when the state is another one: "connecting", "waiting" or "offline". */
  constructor(changed) {
    this.changed = changed;
    this.state = "connecting";
    this.retryAt = 0;
    this.isLeft = false;
    this.wake = () => {};
  }

  /** Resolves to the page, or to null once it is left; throws `CallFailed` if that is final. */
  async newest(id) {
    for (let tries = 0; !this.isLeft; tries += 1) {
      try {
        return await messages(id);
      } catch (error) {
        const isAnswer = error instanceof CallFailed && error.status < 500 && error.status !== 429;
        if (isAnswer) throw error;
      }
      if (!this.isLeft) await this.rest(RETRY_MS[Math.min(tries, RETRY_MS.length - 1)]);
    }
    return null;
  }

  /** Ask no more. */
  leave() {
    this.isLeft = true;
    this.wake();
  }

  async rest(ms) {
    this.retryAt = Date.now() + ms;
    this.to(navigator.onLine ? "waiting" : "offline");
    const ears = new AbortController();
    let timer = 0;
    await new Promise((resolve) => {
      this.wake = resolve;
      timer = setTimeout(resolve, ms);
      addEventListener("online", resolve, { signal: ears.signal });
    });
    clearTimeout(timer);
    ears.abort();
    if (!this.isLeft) this.to("connecting");
  }

  to(state) {
    this.state = state;
    this.changed();
  }
}
