// Light, dark, or what the system has.

import { $, changeIcon, label } from "./dom.js";
import { onLanguage, t } from "./i18n.js";
import { recall, remember } from "./store.js";

const THEMES = ["auto", "light", "dark"];
const system = matchMedia("(prefers-color-scheme: dark)");
const button = $("#theme");

let theme = "auto";

export function startTheme() {
  theme = THEMES.includes(recall("theme")) ? recall("theme") : "auto";
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    remember("theme", theme === "auto" ? null : theme);
    show();
  });
  system.addEventListener("change", show);
  onLanguage(show);
  show();
}

function show() {
  document.documentElement.dataset.theme = theme === "auto" ? (system.matches ? "dark" : "light") : theme;
  changeIcon($("svg", button), theme);
  label(button, t(`theme.${theme}`));
}
