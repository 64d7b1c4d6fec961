// What is shown before the first message, and where a conversation was that is gone.

import { $, make } from "./dom.js";
import { onLanguage, t } from "./i18n.js";

const IDEAS = 4;
const gone = $("#gone");

/** `choose(text)` is called with the idea that somebody likes. */
export function startWelcome(choose) {
  const draw = () => {
    const ideas = Array.from({ length: IDEAS }, (_, place) => {
      const button = make("button", { type: "button", textContent: t(`idea${place + 1}`) });
      button.addEventListener("click", () => choose(button.textContent));
      return make("li", {}, button);
    });
    $("#ideas").replaceChildren(...ideas);
  };
  onLanguage(draw);
  draw();
}

/** Say that a conversation is not there any more; `forget` takes it off the list. */
export function showGone(forget) {
  const button = make("button", { type: "button", className: "primary", textContent: t("goneForget") });
  button.addEventListener("click", forget);
  const words = [make("h2", { textContent: t("goneTitle") }), make("p", { textContent: t("goneMore") })];
  gone.replaceChildren(...words, make("div", { className: "buttons" }, button));
  show(true);
}

export function hideGone() {
  show(false);
}

function show(isGone) {
  gone.hidden = !isGone;
  $("#composer").hidden = isGone;
}
