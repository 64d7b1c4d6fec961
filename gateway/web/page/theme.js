// The button for light, dark, or what the system has.

import { chosenTheme, keepTheme, onSystemTheme, showTheme, THEMES } from "./choices.js";
import { $, changeIcon, label } from "./dom.js";
import { onLanguage, t } from "./i18n.js";

const button = $("#theme");

export function startTheme() {
  button.addEventListener("click", () => {
    keepTheme(THEMES[(THEMES.indexOf(chosenTheme()) + 1) % THEMES.length]);
    show();
  });
  onSystemTheme(show);
  onLanguage(show);
  show();
}

function show() {
  showTheme();
  changeIcon($("svg", button), chosenTheme());
  label(button, t(`theme.${chosenTheme()}`));
}
