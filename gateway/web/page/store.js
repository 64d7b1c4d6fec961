// What this browser remembers: sessions, drafts, choices, and the API key if it is told to.

const PREFIX = "midm.";
const MAX_SESSIONS = 300;

/** Read a value; null if there is none, or if storage is forbidden. */
export function recall(name, place = "localStorage") {
  try {
    return window[place].getItem(PREFIX + name);
  } catch {
    return null;
  }
}

/** Keep a value, or forget it if it is null or empty; a full or forbidden storage keeps nothing. */
export function remember(name, value, place = "localStorage") {
  try {
    if (value) window[place].setItem(PREFIX + name, value);
    else window[place].removeItem(PREFIX + name);
  } catch {
    // The page works without a memory.
  }
}

// The list: [{id, title, named, at}], the newest first. Each change reads it anew, because other
// tabs write it too.

export function sessions() {
  try {
    const list = JSON.parse(recall("sessions") ?? "[]");
    return Array.isArray(list) ? list.filter((entry) => typeof entry?.id === "string") : [];
  } catch {
    return [];
  }
}

export function session(id) {
  return sessions().find((entry) => entry.id === id);
}

/** Add or change one; it moves to the top when `at` is given. */
export function noteSession(id, changes) {
  const list = sessions();
  const known = list.find((entry) => entry.id === id) ?? { id, title: "", named: false, at: Date.now() };
  const others = list.filter((entry) => entry.id !== id);
  const all = [{ ...known, ...changes }, ...others].sort((one, other) => other.at - one.at);
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
  try {
    return JSON.parse(recall(`outbox.${id}`, "sessionStorage") ?? "[]");
  } catch {
    return [];
  }
}

export function saveOutbox(id, list) {
  remember(`outbox.${id}`, list.length ? JSON.stringify(list) : null, "sessionStorage");
}

// The API key: of this tab unless it is to stay.

export function apiKey() {
  return recall("key", "sessionStorage") ?? recall("key");
}

export function keepKey(key, { stays }) {
  remember("key", key, "sessionStorage");
  remember("key", stays ? key : null);
}
