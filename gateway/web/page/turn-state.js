// What is said below a reply about how it stands, in words; no document in here.

import { duration, hasString, t } from "./i18n.js";

/** A quiet line, or null: {text, isWaiting}. */
export function lineOf(turn) {
  switch (turn.status) {
    case "pending":
      return { text: pendingText(turn), isWaiting: !turn.isHeld };
    case "queued":
      return { text: queueText(turn.queue), isWaiting: true };
    case "running":
      return turn.reply?.content ? null : { text: t("thinking"), isWaiting: true };
    case "cancelled":
      return { text: t("stopped"), isWaiting: false };
    case "complete":
      return turn.reply && !turn.reply.content.trim() ? { text: t("empty"), isWaiting: false } : null;
  }
  return null;
}

function pendingText({ errorCode, isHeld }) {
  if (errorCode) return `${whatHappened(errorCode)} ${whatNext(errorCode)}`;
  return t(isHeld ? "sendingLater" : "sending");
}

function queueText(queue) {
  if (!queue) return t("thinking");
  const { position, etaMs } = queue;
  return etaMs ? t("queuedEta", { position, eta: duration(Math.ceil(etaMs / 1000) * 1000) }) : t("queued", { position });
}

/** What went wrong, or null: {what, next, isCalm, canRetry}. */
export function troubleOf(turn) {
  const isLong = turn.status === "complete" && turn.reply?.finishReason === "length";
  if (isLong) return { what: t("tooLong"), next: t("tooLongNext"), isCalm: true, canRetry: false };
  if (turn.status !== "error" && turn.status !== "interrupted") return null;
  const code = turn.error?.code ?? (turn.status === "interrupted" ? "interrupted" : "internal");
  return { what: whatHappened(code), next: whatNext(code), isCalm: false, canRetry: true };
}

export const whatHappened = (code) => t(known(`error.${code}`, "error.internal"));
export const whatNext = (code) => t(known(`next.${code}`, "next.internal"));

/** Why the gateway closed the connection for good. */
export const whyClosed = (code) => t(known(`close.${code}`, "close.other"));

const known = (key, otherwise) => (hasString(key) ? key : otherwise);
