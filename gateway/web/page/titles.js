// What conversations are called, and where they are found.

import { moment, t } from "./i18n.js";
import { noteSession, session } from "./store.js";

const MAX_TITLE = 60; // characters

export const titleOf = ({ title, at }) => title || t("untitled", { at: moment(at) });
export const linkTo = (id) => `#/${id}`;
export const idOf = (hash) => /^#\/(.+)/.exec(hash)?.[1] ?? "";

/** Change what is remembered of a conversation; one without a title is called after a message. */
export function nameSession(id, message, changes = {}) {
  noteSession(id, { title: session(id)?.title || titleFrom(message), ...changes });
}

// The first line of a message, as far as that goes.
function titleFrom(message) {
  const line = message.trim().split("\n")[0];
  return line.length > MAX_TITLE ? `${line.slice(0, MAX_TITLE - 1)}…` : line;
}
