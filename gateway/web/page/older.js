// Messages above what is loaded: for who scrolls up, and for who looks for one of them.

import { $ } from "./dom.js";
import { isShort, keepPlace, lookAt } from "./scroller.js";

const waiting = $("#older");

export class Older {
  /** `current()` is the chat in view, or null. */
  constructor(current, transcript) {
    this.current = current;
    this.transcript = transcript;
  }

  /** Load one page; false if there is none, or another conversation came into view. */
  async load() {
    const chat = this.current();
    if (!chat?.nextBefore || chat.older) return false;
    waiting.hidden = false;
    const isMore = await chat.loadOlder();
    if (chat !== this.current()) return false;
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
