// What a screen reader hears: that a reply began, and all of it when it is over; no single pieces.

import { $ } from "./dom.js";
import { t } from "./i18n.js";

const PORTION = 300; // characters that are read as one
const MAX_LINES = 200;
const place = $("#announcer");

export function say(text) {
  const line = document.createElement("p");
  line.textContent = text;
  place.append(line);
  while (place.children.length > MAX_LINES) place.firstChild.remove();
}

export function sayStarted() {
  say(t("say.started"));
}

/** Read out a reply as it stands on the page. */
export function sayFinished(prose, { wasStopped }) {
  say(t(wasStopped ? "say.stopped" : "say.finished"));
  for (const block of prose.children) for (const text of spoken(block)) say(text);
}

function spoken(block) {
  const code = block.querySelector("pre");
  if (code) return [t("say.code", { lines: code.textContent.trimEnd().split("\n").length })];
  return portions(block.textContent.trim());
}

/** Cut a text at the ends of its sentences. */
export function portions(text) {
  const parts = [];
  let part = "";
  for (const sentence of text.match(/[^.!?。\n]*[.!?。\n]*\s*/g) ?? []) {
    if (part && part.length + sentence.length > PORTION) {
      parts.push(part.trim());
      part = "";
    }
    part += sentence;
  }
  if (part.trim()) parts.push(part.trim());
  return parts;
}
