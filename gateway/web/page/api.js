// The REST calls of the page; the conversation itself goes over the client's WebSocket.

import { apiKey } from "./store.js";

const CALL_MS = 15_000;

export const GATEWAY = new URL("../..", import.meta.url);

/** An answer that is no success: its status, and the code of its problem. */
export class CallFailed extends Error {
  constructor(status, code) {
    super(`${status} ${code}`);
    this.status = status;
    this.code = code;
  }
}

/** Throws `CallFailed`, or `TypeError` or `DOMException` when there is no answer. */
async function call(path, { method = "GET", query = {}, signal } = {}) {
  const url = new URL(path, GATEWAY);
  for (const [name, value] of Object.entries(query)) if (value) url.searchParams.set(name, value);
  const key = apiKey();
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const answer = await fetch(url, { method, headers, cache: "no-store", signal });
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  throw new CallFailed(answer.status, problem.code ?? "internal");
}

async function json(path, request) {
  // Not AbortSignal.timeout, which goes on when the call is over.
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), CALL_MS);
  try {
    return await (await call(path, { ...request, signal: late.signal })).json();
  } finally {
    clearTimeout(timer);
  }
}

const of = (id) => `api/sessions/${encodeURIComponent(id)}`;

export const health = () => json("api/health");
export const listSessions = () => json("api/sessions", { query: { limit: 100 } });
export const deleteSession = (id) => call(of(id), { method: "DELETE" });
export const find = (id, { q, before, limit }) => json(`${of(id)}/messages`, { query: { q, before, limit } });
export const exported = (id, format) => call(`${of(id)}/export`, { query: { format } });

/** A page of the history, replaced turns too. */
export function messages(id, { before, limit = 60 } = {}) {
  return json(`${of(id)}/messages`, { query: { before, limit, include: "replaced" } });
}
