// The console: connect, write, send, and see what comes.

import { byId, el } from "./dom.js";
import { addLine, clearLog, foldReply, logAsText } from "./log.js";
import { Wire } from "./socket.js";
import { findings } from "./validation.js";
import { word } from "./words.js";

const wire = new Wire();
let documentOfFrames = null;
let templates = [];
let state = "idle";

/** Begin, with what /schema.json and /asyncapi.json say. */
export function beginConsole(schema, asyncapi) {
  documentOfFrames = schema;
  offerTemplates(asyncapi);
  listen();
  showState();
}

/** Put a frame into the composer. */
export function compose(text) {
  byId("frame").value = text;
  judge();
}

/** Say the state and the verdict again, in the language of the page. */
export function retell() {
  showState();
  judge();
}

function offerTemplates(asyncapi) {
  const names = Object.keys(asyncapi.channels.ws.messages);
  const received = new Set(Object.values(asyncapi.operations)
    .filter((operation) => operation.action === "receive")
    .flatMap((operation) => operation.messages.map(({ $ref }) => $ref.split("/").pop())));
  templates = names.filter((name) => received.has(name)).flatMap((name) => {
    const message = asyncapi.components.messages[name];
    return message.examples.map((example) => ({ label: `${message.name}: ${example.name}`, payload: example.payload }));
  });
  templates.push(
    { label: "typed: /help", payload: "/help" },
    { label: "typed: a slow reply of the simulated model", payload: "안녕하세요 #sim pieces=80 interval_ms=80#" },
    { label: "typed: a reply that fails", payload: "안녕하세요 #sim error_at=3#" },
  );
  byId("template").replaceChildren(...templates.map(({ label }, n) => el("option", { value: n }, label)));
  useTemplate();
}

function useTemplate() {
  const { payload } = templates[byId("template").value];
  if (typeof payload === "string") return compose(payload);
  const fresh = "request_id" in payload ? { ...payload, request_id: crypto.getRandomValues(new Uint32Array(1))[0].toString(36) } : payload;
  return compose(JSON.stringify(fresh, null, 2));
}

function listen() {
  byId("connect").addEventListener("submit", (event) => { event.preventDefault(); open(byId("after").value.trim()); });
  byId("disconnect").addEventListener("click", () => wire.close());
  byId("resume").addEventListener("click", () => { byId("session").value = wire.session; open(wire.cursor); });
  byId("compose").addEventListener("submit", (event) => { event.preventDefault(); send(); });
  byId("template").addEventListener("change", useTemplate);
  byId("frame").addEventListener("input", judge);
  byId("frame").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); send(); }
  });
  byId("format").addEventListener("click", () => {
    const value = json(byId("frame").value);
    if (value !== undefined) compose(JSON.stringify(value, null, 2));
  });
  byId("clear").addEventListener("click", clearLog);
  byId("copy-log").addEventListener("click", copy);
  wire.addEventListener("state", ({ detail }) => { state = detail; showState(); });
  wire.addEventListener("frame", ({ detail }) => take(detail));
  wire.addEventListener("closed", ({ detail: { code, reason } }) => {
    const { oneOf } = documentOfFrames.$defs.CloseCode;
    const meaning = reason || oneOf.find((each) => each.const === code)?.description || "";
    addLine({ way: "note", text: `${code} ${meaning}`.trim(), frame: null });
  });
}

function open(after) {
  const session = byId("session").value.trim();
  byId("after").value = after;
  wire.open({ session, after, key: byId("key").value.trim() });
}

function take({ way, text, frame }) {
  addLine({ way, text, frame });
  if (way === "out" || frame === null) return;
  foldReply(frame);
  byId("cursor").textContent = wire.cursor || "–";
  if (frame.type === "ready") byId("session").value = frame.session_id;
}

function send() {
  const text = byId("frame").value;
  const value = json(text);
  // Written over several lines for people; on the wire it is one.
  if (text && wire.send(value === undefined ? text : JSON.stringify(value))) byId("frame").focus();
}

async function copy() {
  const button = byId("copy-log");
  try {
    await navigator.clipboard.writeText(logAsText());
  } catch {
    getSelection().selectAllChildren(byId("log")); // no clipboard without https or a permission
    return;
  }
  button.textContent = word("copied");
  setTimeout(() => { button.textContent = word("copy"); }, 1500);
}

function showState() {
  const shown = byId("state");
  shown.dataset.state = state;
  shown.textContent = word(state);
  byId("disconnect").disabled = state === "idle";
  byId("open").disabled = state !== "idle";
  byId("resume").disabled = state !== "idle" || !wire.cursor;
  byId("send").disabled = state !== "open";
}

function json(text) {
  if (!text.trimStart().startsWith("{")) return undefined;
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function judge() {
  const { verdict, well } = judged(byId("frame").value);
  byId("verdict").replaceChildren(...verdict.map((says) => el("li", { class: well ? "well" : "wrong" }, says)));
  byId("send").textContent = word(well ? "send" : "anyway");
}

function judged(text) {
  if (!text.startsWith("{")) return { verdict: [word("typed")], well: true };
  try {
    const found = findings(JSON.parse(text), documentOfFrames);
    return found.length ? { verdict: found, well: false } : { verdict: [word("valid")], well: true };
  } catch (error) {
    return { verdict: [error.message], well: false };
  }
}
