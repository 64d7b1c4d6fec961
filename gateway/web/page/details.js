// The figures of a reply, for who wants them.

import { duration, hasString, moment, number, t } from "./i18n.js";

/** Pairs of a name and a value; what is not known is left out. */
export function detailsOf({ turn, attempt, status, reply }, cursor) {
  const { timing, tokenCount, totalTokens, tokenUsage, createdAt, content, finishReason, messageId } = reply;
  const pieces = totalTokens ?? tokenCount;
  const writing = timing && timing.duration_ms - (timing.first_token_ms ?? 0) - (timing.queue_ms ?? 0);
  const pairs = [
    ["created", createdAt && moment(createdAt)],
    ["queue", timing?.queue_ms > 0 && duration(timing.queue_ms)],
    ["firstToken", timing?.first_token_ms != null && duration(timing.first_token_ms)],
    ["duration", timing && duration(timing.duration_ms)],
    ["tokens", pieces && number(pieces)],
    ["speed", pieces > 1 && writing > 0 && number(Math.round((pieces * 10_000) / writing) / 10)],
    ["usage", tokenUsage?.total_tokens && usage(tokenUsage)],
    ["characters", number([...content].length)],
    ["reason", reasonOf(finishReason ?? status)],
    ["turn", number(turn)],
    ["attempt", attempt > 1 && number(attempt)],
    ["cursor", cursor],
    ["message", messageId],
  ];
  return pairs.filter(([, value]) => value).map(([name, value]) => [t(`detail.${name}`), value]);
}

const reasonOf = (reason) => (hasString(`reason.${reason}`) ? t(`reason.${reason}`) : reason);

function usage({ prompt_tokens: prompt, completion_tokens: completion, total_tokens: total }) {
  return `${number(prompt ?? 0)} + ${number(completion ?? 0)} = ${number(total)}`;
}
