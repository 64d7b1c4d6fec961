// Questions and answers that stand over the page.

import { $, make } from "./dom.js";
import { t } from "./i18n.js";
import { apiKey, keepKey } from "./store.js";

const KEYS = [
  ["send", "Enter"],
  ["break", "Shift", "Enter"],
  ["stop", "Esc"],
  ["editLast", "↑"],
  ["new", "Ctrl/⌘", "K"],
  ["sidebar", "Ctrl/⌘", "B"],
  ["search", "Ctrl/⌘", "Shift", "F"],
  ["box", "/"],
  ["help", "?"],
];

/** Ask before something that cannot be undone; true if it is wanted. */
export function confirmed(title, body, yes) {
  const dialog = $("#ask");
  $("h2", dialog).textContent = title;
  $(".body", dialog).textContent = body;
  $(".danger", dialog).textContent = yes;
  return answered(dialog).then((answer) => answer === "yes");
}

export function showHelp() {
  const rows = KEYS.flatMap(([name, ...keys]) => [
    make("dt", { textContent: t(`key.${name}`) }),
    make("dd", {}, ...keys.flatMap((key, place) => [place ? " " : "", make("kbd", { textContent: key })])),
  ]);
  $("#help-dialog dl").replaceChildren(...rows);
  return answered($("#help-dialog"));
}

/** Show pairs of a name and a value. */
export function showDetails(pairs) {
  const rows = pairs.flatMap(([name, value]) => [
    make("dt", { textContent: name }),
    make("dd", { textContent: value }),
  ]);
  $("#details-dialog dl").replaceChildren(...rows);
  return answered($("#details-dialog"));
}

/** Which format to export; "" for none. */
export function askFormat() {
  return answered($("#export-dialog"));
}

/** Ask for an API key; true if there is another one than before. */
export function askKey(why = "") {
  const dialog = $("#key-dialog");
  const input = $("#key-input");
  if (dialog.open) return Promise.resolve(false);
  $(".why", dialog).hidden = !why;
  $(".why", dialog).textContent = why;
  $(".forget", dialog).hidden = !apiKey();
  input.value = "";
  return new Promise((resolve) => {
    const finish = (isChanged) => {
      dialog.close();
      resolve(isChanged);
    };
    $("form", dialog).onsubmit = (event) => {
      event.preventDefault();
      const key = input.value.trim();
      if (key) keepKey(key, { stays: $("#key-remember").checked });
      finish(Boolean(key));
    };
    $(".cancel", dialog).onclick = () => finish(false);
    $(".forget", dialog).onclick = () => {
      keepKey(null, { stays: false });
      finish(true);
    };
    dialog.oncancel = () => resolve(false);
    dialog.showModal();
  });
}

function answered(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
  });
}
