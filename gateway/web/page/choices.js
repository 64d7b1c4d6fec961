// Colours and language, of all pages of the gateway: as the browser has them, unless somebody chose.

import { recall, remember } from "./store.js";

export const THEMES = ["auto", "light", "dark"];
const LANGUAGES = ["en", "ko"];
const system = matchMedia("(prefers-color-scheme: dark)");

/** "light", "dark", or "auto" for what the system has. */
export function chosenTheme() {
  const kept = recall("theme");
  return THEMES.includes(kept) ? kept : "auto";
}

export function keepTheme(theme) {
  remember("theme", theme === "auto" ? null : theme);
}

/** Show the theme, and return which one that is: "light" or "dark". */
export function showTheme() {
  const chosen = chosenTheme();
  const shown = chosen === "auto" ? (system.matches ? "dark" : "light") : chosen;
  document.documentElement.dataset.theme = shown;
  return shown;
}

/** `listener` is called when the system changes its colours. */
export function onSystemTheme(listener) {
  system.addEventListener("change", listener);
}

/** "en" or "ko". */
export function chosenLanguage() {
  const wanted = [recall("language"), ...navigator.languages.map((tag) => tag.slice(0, 2).toLowerCase())];
  return wanted.find((tag) => LANGUAGES.includes(tag)) ?? "en";
}

export function keepLanguage(language) {
  remember("language", language);
}
