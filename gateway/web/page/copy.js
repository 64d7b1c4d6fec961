// The clipboard.

import { $, changeIcon, make } from "./dom.js";
import { t } from "./i18n.js";
import { tell } from "./notices.js";

const SHOWN_MS = 1500;

/** Put text on the clipboard, and show for a moment on the button that it is there. */
export async function copyFrom(button, text) {
  if (!(await written(text))) return void tell(t("copyFailed"));
  const svg = $("svg", button);
  changeIcon(svg, "check");
  button.classList.add("done");
  setTimeout(() => {
    changeIcon(svg, "copy");
    button.classList.remove("done");
  }, SHOWN_MS);
  return undefined;
}

async function written(text) {
  // A page that came over plain HTTP from another machine is given no clipboard.
  if (!navigator.clipboard) return copied(text);
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copied(text);
  }
}

// The old way, by a selection.
function copied(text) {
  const before = document.activeElement;
  const area = make("textarea", { className: "sr", value: text });
  document.body.append(area);
  area.select();
  const isDone = document.execCommand("copy");
  area.remove();
  before?.focus();
  return isDone;
}
