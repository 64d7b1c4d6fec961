// The log of frames in the page, and the reply they add up to.

import { byId, el } from "./dom.js";

const MOST = 1000; // lines; the oldest go

const time = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, hour12: false,
});

/** Add a frame, or a note of the page's own. */
export function addLine({ way, text, frame }) {
  const list = byId("log");
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  const shown = hidden(text, frame);
  const line = el("li", { class: `line ${way}`, "data-type": frame?.type ?? "" },
    el("time", {}, time.format(new Date())),
    el("span", { class: "way", "aria-label": way }, { in: "↓", out: "↑", note: "·" }[way]),
    el("details", {},
      el("summary", {}, frame?.type ? el("b", {}, frame.type) : null, " ", el("span", {}, brief(shown, frame))),
      el("pre", {}, frame ? JSON.stringify(JSON.parse(shown), null, 2) : shown)));
  line.dataset.text = shown;
  list.append(line);
  while (list.children.length > MOST) list.firstChild.remove();
  if (atEnd) list.scrollTop = list.scrollHeight;
}

/** Write the log as text, a line for each frame. */
export function logAsText() {
  const arrow = (line) => (line.classList.contains("in") ? "<" : line.classList.contains("out") ? ">" : "#");
  return [...byId("log").children]
    .map((line) => `${line.querySelector("time").textContent} ${arrow(line)} ${line.dataset.text}`)
    .join("\n");
}

/** Empty the log. */
export function clearLog() {
  byId("log").replaceChildren();
}

/** Show a frame's part in what a user sees: a `start` empties it, tokens add to it. */
export function foldReply(frame) {
  const shown = byId("reply");
  if (frame.type === "start") shown.textContent = "";
  if (frame.type === "token") shown.textContent += frame.content;
  if (frame.type === "start") shown.dataset.turn = frame.turn;
  if (frame.type === "complete") shown.dataset.ended = frame.finish_reason;
  if (frame.type === "error" && frame.turn !== undefined) shown.dataset.ended = frame.code;
  if (frame.type === "start") delete shown.dataset.ended;
}

function hidden(text, frame) {
  // What somebody pasted as a key is not left standing, nor copied along with the log.
  return frame?.type === "auth" ? JSON.stringify({ ...frame, token: "…" }) : text;
}

function brief(text, frame) {
  if (!frame?.type) return text;
  const { type: _, ...others } = JSON.parse(text);
  return Object.keys(others).length ? JSON.stringify(others) : "";
}
