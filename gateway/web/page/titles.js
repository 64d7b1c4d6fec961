// What conversations are called, and where they are found.

import { moment, t } from "./i18n.js";

const MAX_TITLE = 60; // characters

export const titleOf = ({ title, at }) => title || t("untitled", { at: moment(at) });
export const linkTo = (id) => `#/${id}`;
export const idOf = (hash) => hash.replace(/^#\/?/, "");

/** A title made of a message: its first line, as far as that goes. */
export function titleFrom(message) {
  const line = message.trim().split("\n")[0];
  return line.length > MAX_TITLE ? `${line.slice(0, MAX_TITLE - 1)}…` : line;
}
