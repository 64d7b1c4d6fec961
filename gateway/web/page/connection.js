// How the connection stands, quietly.

import { CloseCode } from "../midm-chat.js";
import { say } from "./announcer.js";
import { $ } from "./dom.js";
import { onLanguage, t } from "./i18n.js";
import { hush, tell } from "./notices.js";
import { whyClosed } from "./turn-state.js";

const place = $("#connection");
const words = $(".words", place);
const button = $("button", place);

export class Connection {
  /** `reconnect` is called when the reader does not want to wait. */
  constructor(reconnect) {
    this.chat = null;
    this.wasLost = false;
    button.addEventListener("click", reconnect);
    // The seconds count down; nothing is drawn while there is nothing to count.
    setInterval(() => this.chat?.state === "waiting" && this.draw(), 500);
    onLanguage(() => this.draw());
  }

  show(chat) {
    this.chat = chat;
    this.draw();
    this.tellChange(chat?.state);
  }

  draw() {
    const state = this.chat?.state;
    place.hidden = !state || state === "idle";
    if (place.hidden) return;
    place.dataset.state = state;
    const seconds = Math.max(0, Math.ceil((this.chat.retryAt - Date.now()) / 1000));
    words.textContent = t(`state.${state}`, { seconds });
    place.title = words.textContent;
    const canAsk = state === "waiting" || (state === "closed" && this.chat.closedBy?.code !== CloseCode.SESSION_GONE);
    button.hidden = !canAsk;
    button.textContent = t(state === "waiting" ? "tryNow" : "reconnect");
  }

  tellChange(state) {
    if (state === "waiting" || state === "offline") {
      if (!this.wasLost) say(t("say.lost"));
      this.wasLost = true;
    } else if (state === "open" && this.wasLost) {
      this.wasLost = false;
      say(t("say.back"));
      hush();
    } else if (state === "closed" && this.chat.closedBy) {
      tell(whyClosed(this.chat.closedBy.code));
    }
  }
}
