// What this browser remembers: sessions, drafts, choices, and the API key if it is told to.

const PREFIX = "midm.";
const MAX_SESSIONS = 300;

/** The id, for drafts and outboxes, of a session that begins with its first message. */
export const NEW = "new";

// What storage does not take, because it is full or forbidden: kept until the page is left.
const unstored = new Map();

/** Read a value; null if there is none. */
export function recall(name, place = "localStorage") {
  const kept = unstored.get(`${place}.${name}`);
  if (kept !== undefined) return kept;
  try {
    return window[place].getItem(PREFIX + name);
  } catch {
    return null;
  }
}

/** Keep a value, or forget it if it is null or empty. */
export function remember(name, value, place = "localStorage") {
  unstored.delete(`${place}.${name}`);
  try {
    if (value) window[place].setItem(PREFIX + name, value);
    else window[place].removeItem(PREFIX + name);
  } catch {
    unstored.set(`${place}.${name}`, value || null);
  }
}

/** A list of what fits; one that is damaged is empty. */
function recallList(name, fits, place) {
  try {
    const list = JSON.parse(recall(name, place) ?? "[]");
    return Array.isArray(list) ? list.filter((one) => one !== null && fits(one)) : [];
  } catch {
    return [];
  }
}

// The list: [{id, title, at}], the newest first. Each change reads it anew, because other tabs
// write it too.

export function sessions() {
  return recallList("sessions", ({ id, title, at }) => (
    typeof id === "string" && typeof title === "string" && Number.isFinite(at)
  ));
}

export function session(id) {
  return sessions().find((entry) => entry.id === id);
}

/** Add or change one; it moves to the top when `at` is given. */
export function noteSession(id, changes) {
  const known = session(id) ?? { id, title: "", at: Date.now() };
  addSessions([{ ...known, ...changes }]);
}

/** Add some, in place of those with the same id. */
export function addSessions(entries) {
  if (entries.length === 0) return;
  const ids = new Set(entries.map(({ id }) => id));
  const others = sessions().filter(({ id }) => !ids.has(id));
  const all = [...entries, ...others].sort((one, other) => other.at - one.at);
  for (const { id: old } of all.slice(MAX_SESSIONS)) forgetDraft(old);
  remember("sessions", JSON.stringify(all.slice(0, MAX_SESSIONS)));
  changed();
}

export function forgetSession(id) {
  remember("sessions", JSON.stringify(sessions().filter((entry) => entry.id !== id)));
  forgetDraft(id);
  changed();
}

function forgetDraft(id) {
  saveDraft(id, null);
  saveOutbox(id, []);
}

const listeners = [];

export function onSessions(listener) {
  listeners.push(listener);
}

function changed() {
  for (const listener of listeners) listener();
}

addEventListener("storage", ({ key }) => {
  if (key === null || key === `${PREFIX}sessions`) changed();
});

// What is in the box, and what was sent and not taken yet. The latter belongs to this tab: another
// one would send it too.

export const draft = (id) => recall(`draft.${id}`) ?? "";
export const saveDraft = (id, text) => remember(`draft.${id}`, text);

export function outbox(id) {
  const isText = (message) => message === null || typeof message === "string";
  return recallList(
    `outbox.${id}`, ({ requestId, message }) => typeof requestId === "string" && isText(message), "sessionStorage",
  );
}

export function saveOutbox(id, list) {
  remember(`outbox.${id}`, list.length ? JSON.stringify(list) : null, "sessionStorage");
}

/** What was sent in this tab before there was a session to send it to, given back once. */
export function takeUnsent() {
  const unsent = outbox(NEW).map(({ message }) => message).join("\n\n");
  saveOutbox(NEW, []);
  return unsent;
}

// The API key: of this tab unless it is to stay.

export function apiKey() {
  return recall("key", "sessionStorage") ?? recall("key");
}

export function keepKey(key, { stays }) {
  remember("key", key, "sessionStorage");
  remember("key", stays ? key : null);
}
