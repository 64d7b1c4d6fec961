// Scrolling: along with the text while the reader is at its end, and never otherwise.

import { $ } from "./dom.js";

const NEAR = 60; // pixels from the end that still count as the end
const place = $("#scroller");
const button = $("#newest");

let follows = true;
let lastTop = 0;
let onTop = () => {};

/** `atTop` is called when the reader comes near the beginning of what is loaded. */
export function startScrolling(atTop) {
  onTop = atTop;
  place.addEventListener("scroll", noticeReader, { passive: true });
  button.addEventListener("click", () => toEnd());
  const grown = new ResizeObserver(() => {
    if (follows) jump();
    showButton();
  });
  for (const child of place.children) grown.observe(child);
  grown.observe(place);
}

function fromEnd() {
  return place.scrollHeight - place.clientHeight - place.scrollTop;
}

function noticeReader() {
  // Upwards is the reader's wish, downwards may be text that pushes.
  if (place.scrollTop < lastTop - 2 && fromEnd() > 4) follows = false;
  if (fromEnd() < NEAR && place.scrollTop >= lastTop) follows = true;
  lastTop = place.scrollTop;
  showButton();
  if (isAtTop()) onTop();
}

function showButton() {
  button.hidden = follows || fromEnd() < NEAR;
}

function jump() {
  place.scrollTop = place.scrollHeight;
  lastTop = place.scrollTop;
}

/** Go to the end, and stay there. */
export function toEnd() {
  follows = true;
  jump();
  showButton();
}

/** Look at an element, and stay there. */
export function lookAt(element) {
  follows = false;
  element.scrollIntoView({ block: "center" });
  lastTop = place.scrollTop;
  showButton();
}

/** Let something be put above what is read, which stays where it is. */
export function keepPlace(change) {
  const before = place.scrollHeight - place.scrollTop;
  change();
  if (follows) return jump();
  place.scrollTop = place.scrollHeight - before;
  lastTop = place.scrollTop;
  return undefined;
}

/** Whether the reader is near the beginning of what is loaded. */
export function isAtTop() {
  return place.scrollTop < 400;
}

/** Whether what is loaded does not fill the window, so that nobody can scroll up. */
export function isShort() {
  return place.scrollHeight <= place.clientHeight + 400;
}
