// What is said to the reader, in Korean or English.

import { chosenLanguage, keepLanguage } from "./choices.js";
import en from "./strings-en.js";
import ko from "./strings-ko.js";

const TABLES = { en, ko };
const listeners = [];

let language = chosenLanguage();

export function currentLanguage() {
  return language;
}

/** The string of a key; `{name}` in it becomes the value of that name. */
export function t(key, values = {}) {
  const text = TABLES[language][key] ?? TABLES.en[key];
  if (text === undefined) throw new Error(`there is no string ${key}`);
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

export function hasString(key) {
  return TABLES.en[key] !== undefined;
}

export function onLanguage(listener) {
  listeners.push(listener);
}

export function setLanguage(wanted) {
  language = wanted;
  keepLanguage(wanted);
  showLanguage();
  for (const listener of listeners) listener();
}

export function showLanguage() {
  document.documentElement.lang = language;
  translate(document.body);
}

/** Fill in what `data-t…` asks for: text, label, tip (label and title), title, placeholder. */
export function translate(root) {
  for (const element of [root, ...root.querySelectorAll("*")]) {
    const { t: text, tLabel, tTip, tTitle, tPlaceholder } = element.dataset;
    if (text) element.textContent = t(text);
    if (tLabel ?? tTip) element.setAttribute("aria-label", t(tLabel ?? tTip));
    if (tTitle ?? tTip) element.title = t(tTitle ?? tTip);
    if (tPlaceholder) element.placeholder = t(tPlaceholder);
  }
}

export function number(value) {
  return value.toLocaleString(language);
}

export function duration(ms) {
  if (ms < 1000) return `${number(Math.round(ms))} ms`;
  return `${number(ms < 10_000 ? Math.round(ms / 100) / 10 : Math.round(ms / 1000))} ${t("seconds")}`;
}

/** The time of day, and the day too unless it is today. */
export function when(iso) {
  const isToday = new Date(iso).toDateString() === new Date().toDateString();
  return isToday ? new Date(iso).toLocaleTimeString(language, { hour: "numeric", minute: "2-digit" }) : moment(iso);
}

export function moment(iso) {
  return new Date(iso).toLocaleString(language, { dateStyle: "medium", timeStyle: "short" });
}

/** Under which heading a time stands in a list. */
export function dayOf(ms) {
  if (ms >= midnight(0)) return t("today");
  if (ms >= midnight(1)) return t("yesterday");
  if (ms >= midnight(7)) return t("thisWeek");
  return t("earlier");
}

// Not by hours: twice a year a day has 23 or 25.
function midnight(daysAgo) {
  const day = new Date();
  day.setDate(day.getDate() - daysAgo);
  return day.setHours(0, 0, 0, 0);
}
