// The head of the page: what is in view, what can be done with it, and the language of it all.

import { $, label } from "./dom.js";
import { currentLanguage, onLanguage, setLanguage, t } from "./i18n.js";
import { session } from "./store.js";
import { titleOf } from "./titles.js";

const language = $("#language");

/** Show which conversation is in view, null for a new one, and whether it is still there. */
export function drawHead(id, { isThere }) {
  const known = id && session(id);
  const title = known ? titleOf(known) : "";
  $("#title").textContent = title || t("newChat");
  document.title = title ? `${title} · midm` : "midm chat";
  $("#search-open").hidden = $("#export").hidden = !id || !isThere;
}

export function startLanguage() {
  const draw = () => {
    $("span", language).textContent = t("otherLanguageShort");
    label(language, t("otherLanguage"));
  };
  language.addEventListener("click", () => setLanguage(currentLanguage() === "ko" ? "en" : "ko"));
  onLanguage(draw);
  draw();
}
