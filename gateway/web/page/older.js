// Messages above what is loaded: for who scrolls up, and for who looks for one of them.

import { $ } from "./dom.js";
import { isAtTop, isShort, keepPlace, lookAt } from "./scroller.js";

const AGAIN_MS = 3000; // after a page that did not come, while the reader waits for it
const waiting = $("#older");

export class Older {
  /** `current()` is the chat in view, or null. */
  constructor(current, transcript) {
    this.current = current;
    this.transcript = transcript;
    this.loading = null; // {chat, page}
    this.timer = 0;
  }

  /** Load one page; false if there is none, or another conversation came into view. */
  load() {
    const chat = this.current();
    if (!chat?.nextBefore) return Promise.resolve(false);
    // Whoever asks meanwhile waits for the same page.
    if (this.loading?.chat !== chat) this.loading = { chat, page: this.page(chat) };
    return this.loading.page;
  }

  async page(chat) {
    waiting.hidden = false;
    const isMore = await chat.loadOlder();
    if (this.loading?.chat === chat) this.loading = null;
    if (chat !== this.current()) return false;
    // Who is at the top cannot scroll up once more.
    clearTimeout(this.timer);
    if (!isMore) this.timer = setTimeout(() => isAtTop() && this.load(), AGAIN_MS);
    keepPlace(() => {
      waiting.hidden = true;
      this.transcript.draw();
    });
    return isMore;
  }

  /** Load until there is something to scroll. */
  async fillWindow() {
    while (this.current()?.nextBefore && isShort() && (await this.load()));
  }

  /** Show a message, wherever it is: its turn, or itself if it belongs to none. */
  async reveal({ turn, message_id: id }) {
    const chat = this.current();
    const { conversation } = chat;
    const isKnown = () => conversation.turn(turn) ?? conversation.loose.some((one) => one.message_id === id);
    while (!isKnown()) {
      if (!(await this.load())) return;
    }
    const found = chat === this.current() && this.transcript.reveal(turn ?? id);
    if (!found) return;
    lookAt(found);
    found.classList.add("found");
    found.addEventListener("animationend", () => found.classList.remove("found"), { once: true });
  }
}
