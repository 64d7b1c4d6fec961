// The turns of a conversation, drawn at most once a frame, and less often when that is dear.

import { $ } from "./dom.js";
import { TurnView } from "./turn-view.js";
import { branches, versionsOf } from "./versions.js";

const SHARE = 3; // after drawing for n ms, nothing is drawn for 3 n ms
const place = $("#turns");

export class Transcript {
  constructor(act) {
    this.act = (name, turn) => (name === "version" ? this.draw() : act(name, turn));
    this.views = new Map(); // by turn, or by request_id while it has none
    this.chat = null;
    this.isDue = false;
    this.restsUntil = 0;
  }

  /** Show a chat, or nothing. */
  open(chat) {
    this.chat = chat;
    this.views.clear();
    place.replaceChildren();
    if (chat) this.draw();
  }

  /** Something was added, ended or replaced: draw all that has changed. */
  draw() {
    if (!this.chat) return;
    const { conversation, pending } = this.chat;
    const found = branches(conversation.turns);
    const isBusy = this.chat.waits !== null;
    const cut = pending.replacesFrom;
    const shown = new Set();
    for (const message of conversation.loose) {
      const view = this.view(message.message_id);
      shown.add(message.message_id);
      view.show([{ turn: looseTurn(message), followers: [] }], { isBusy });
      view.forbid();
    }
    for (const turn of conversation.visible) {
      if (turn.turn >= cut) break;
      const view = this.view(turn.turn);
      shown.add(turn.turn);
      view.show(versionsOf(turn, found), { isBusy });
      // What came after the newest version has nothing to do with an older one.
      if (view.isOld) return this.arrange(shown);
    }
    for (const turn of pending.asTurns({ isHeld: !["open", "connecting"].includes(this.chat.state) })) {
      shown.add(turn.turn);
      this.view(turn.turn).show([{ turn, followers: [] }], { isBusy: true });
    }
    return this.arrange(shown);
  }

  /** The open reply has grown: draw it soon. */
  drawOpen() {
    if (this.isDue) return;
    this.isDue = true;
    const wait = this.restsUntil - performance.now();
    const frame = () => requestAnimationFrame(() => this.drawNow());
    if (wait > 0) setTimeout(frame, wait);
    else frame();
  }

  drawNow() {
    this.isDue = false;
    const turn = this.chat?.conversation.open;
    const view = turn && this.views.get(turn.turn);
    if (!view || view.isOld) return;
    const began = performance.now();
    view.showReply();
    const took = performance.now() - began;
    this.restsUntil = began + took + (took > 8 ? SHARE * took : 0);
  }

  /** Go back to the newest versions. */
  showNewest() {
    for (const view of this.views.values()) view.at = null;
    this.draw();
  }

  /** The element of a turn, its version chosen if it was replaced; null if it is not loaded. */
  reveal(number) {
    for (const view of this.views.values()) {
      const at = view.versions.findIndex(
        ({ turn, followers }) => turn.turn === number || followers.some((one) => one.turn === number),
      );
      if (at >= 0) {
        view.showVersion(at);
        return $(`[data-turn="${number}"]`, place);
      }
    }
    return null;
  }

  view(key) {
    if (!this.views.has(key)) this.views.set(key, new TurnView(this.act));
    return this.views.get(key);
  }

  arrange(shown) {
    for (const [key, view] of this.views) {
      if (shown.has(key)) continue;
      view.element.remove();
      // An answered message gets a view of its own turn; a hidden turn may come back.
      if (typeof key === "string") this.views.delete(key);
    }
    let before = null;
    for (const key of shown) {
      const { element } = this.views.get(key);
      const isInPlace = element.parentElement === place && element.previousElementSibling === before;
      if (!isInPlace) place.insertBefore(element, before ? before.nextSibling : place.firstChild);
      before = element;
    }
  }
}

// A message that belongs to no turn, in the shape of one: of a database of the original.
function looseTurn({ message_id: turn, role, content, created_at: createdAt }) {
  const isUser = role === "user";
  return { turn, status: "complete", user: isUser ? { content } : null, reply: isUser ? null : { content, createdAt } };
}
