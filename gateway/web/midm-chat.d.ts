/** Types of midm-chat.js. What the gateway says is named as on the wire, in snake_case. */

export type ErrorCode =
  | "bad_json" | "bad_frame" | "unknown_type" | "message_too_long" | "request_id_conflict"
  | "unauthorized" | "session_not_found" | "turn_not_found" | "message_not_found"
  | "turn_in_progress" | "nothing_to_cancel" | "queue_full" | "rate_limited"
  | "upstream_unavailable" | "upstream_timeout" | "upstream_stalled" | "turn_timeout"
  | "upstream_error" | "context_too_long" | "interrupted" | "storage_error" | "shutting_down"
  | "internal";
export type FinishReason = "stop" | "length" | "cancelled" | "error" | "interrupted";
/** `<turn>.<attempt>.<offset or end>`: a place in a session's log. To be handed back unread. */
export type Cursor = string;

export interface Limits {
  max_message_chars: number;
  max_new_tokens: number;
  max_request_id_chars: number;
  max_frame_bytes: number;
}
export interface Ready {
  type: "ready";
  protocol: string;
  session_id: string;
  created: boolean;
  resumed: boolean;
  cursor: Cursor;
  heartbeat_s: number;
  limits: Limits;
  turn: { turn: number; status: string; position?: number } | null;
}
export interface Accepted {
  type: "accepted";
  turn: number;
  request_id?: string;
  duplicate: boolean;
  status: string;
}
export interface Start {
  type: "start";
  id: Cursor;
  turn: number;
  attempt: number;
  message_id: string;
  user_message: { message_id: string; content: string; created_at: string };
  request_id?: string;
  replaces?: number;
}
export interface Queued { type: "queued"; turn: number; position: number; eta_ms?: number }
export interface Token { type: "token"; id: Cursor; turn: number; content: string; token_count: number }
export interface Timing {
  queue_ms: number | null;
  first_token_ms: number | null;
  duration_ms: number | null;
}
export interface Complete {
  type: "complete";
  id: Cursor;
  turn: number;
  message_id: string;
  finish_reason: "stop" | "length" | "cancelled";
  total_tokens: number;
  token_usage: Record<string, number> | null;
  created_at: string;
  timing: Timing;
}
/** With `id` and `turn` it is the end of that turn; any other error leaves turns alone. */
export interface ErrorFrame {
  type: "error";
  id?: Cursor;
  turn?: number;
  message_id?: string;
  code: ErrorCode;
  message: string;
  retryable: boolean;
  retry_after_ms?: number;
  request_id?: string;
}
export interface Reconnect { type: "reconnect"; reason: string; after_ms: number }
export interface Ping { type: "ping" }
export interface Pong { type: "pong"; request_id?: string }
export type ServerFrame =
  | Ready | Accepted | Start | Queued | Token | Complete | ErrorFrame | Reconnect | Ping | Pong;

export interface Message {
  message_id: string;
  session_id: string;
  role: "user" | "assistant" | "system";
  content: string;
  created_at: string;
  token_usage: Record<string, unknown> | null;
  turn: number | null;
  finish_reason: FinishReason | null;
  replaced_by?: number;
}
/** A page of messages, oldest first; `next_before` asks for the page before it. */
export interface MessagesPage {
  session_id: string;
  messages: Message[];
  total_count: number;
  next_before: string | null;
  /** Where to read on; null of a page that is not the newest. */
  cursor: Cursor | null;
}
export interface Session {
  session_id: string;
  created_at: string;
  last_accessed: string;
  metadata: Record<string, unknown>;
}

/** `expiresAt` is in milliseconds since 1970; that of a JWT is read from it. */
export type GivenToken = string | null | undefined | { token: string; expiresAt?: number };
export type TokenSource = string | (() => GivenToken | Promise<GivenToken>);

export interface Timings {
  backoffBaseMs: number;
  backoffCapMs: number;
  connectMs: number;
  callMs: number;
  silenceMs: number;
  probeMs: number;
  stableMs: number;
  sendForMs: number;
  renewBeforeMs: number;
}
export const TIMING: Readonly<Timings>;
export const CloseCode: Readonly<{
  NORMAL: 1000;
  BROKEN: 1006;
  TOKEN_EXPIRED: 4001;
  UNAUTHORIZED: 4500;
  SESSION_GONE: 4504;
}>;

export type State = "idle" | "connecting" | "open" | "waiting" | "offline" | "closed";
export interface ClosedBy { code: number; reason: string }

export interface Generation {
  maxNewTokens?: number;
  temperature?: number;
  doSample?: boolean;
}
export interface SendOptions extends Generation {
  /** The turn that this message takes the place of. */
  replaces?: number;
}
export interface RegenerateOptions extends Generation {
  /** The turn to ask again; the last one by default. */
  turn?: number;
}
/** A message on its way; `message` null is that of `turn` once more. Fit for JSON. */
export interface OutboxEntry extends Generation {
  requestId: string;
  message: string | null;
  turn?: number;
  replaces?: number;
}

export interface ClientOptions {
  /** Where the gateway is; by default where this module came from. */
  url?: string | URL;
  /** Of an earlier visit; without it a session is begun. */
  sessionId?: string;
  /** Of an earlier visit; without it the newest messages are loaded, and told as `reset`. */
  cursor?: Cursor;
  token?: TokenSource;
  /** What `outbox` of an earlier client of this session held. */
  outbox?: readonly OutboxEntry[];
  /** Of a session that is begun. */
  metadata?: Record<string, unknown>;
  /** How many messages a `reset` brings; by default what the gateway thinks fit. */
  pageSize?: number;
  timing?: Partial<Timings>;
  WebSocket?: new (url: string, protocols: string[]) => unknown;
  fetch?: typeof globalThis.fetch;
  /** In place of Math.random. */
  random?: () => number;
}

export interface ClientEvents {
  ready: Ready;
  accepted: Accepted;
  start: Start;
  queued: Queued;
  token: Token;
  complete: Complete;
  error: ErrorFrame;
  reconnect: Reconnect;
  ping: Ping;
  pong: Pong;
  state: { state: State; previous: State; retryInMs?: number; closedBy?: ClosedBy };
  /** A message is on its way. */
  sent: { requestId: string; message: string | null; replaces: number | null };
  /** It was not taken yet, and is sent again by itself. */
  delayed: { requestId: string; message: string | null; error: ErrorFrame; retryInMs: number };
  /** It is not stored, and not sent again unless `retry` asks for that. */
  refused: { requestId: string; message: string | null; error: ErrorFrame };
  /** What is shown is to be replaced by this page. */
  reset: MessagesPage;
}

export class ChatClient extends EventTarget {
  constructor(options?: ClientOptions);
  readonly state: State;
  readonly retryAt: number | null;
  readonly closedBy: ClosedBy | null;
  readonly sessionId: string | null;
  readonly cursor: Cursor | null;
  readonly limits: Limits | null;
  readonly outbox: OutboxEntry[];
  /** Connect, and stay connected until `close`; while it waits for its next try, try now. */
  connect(): void;
  /** Close the connection and stop everything. Turns go on; messages stay in the outbox. */
  close(): void;
  /** Send a message; return its request id. Throws once the client is closed for good. */
  send(text: string, options?: SendOptions): string;
  regenerate(options?: RegenerateOptions): string;
  retry(requestId: string): boolean;
  cancel(turn?: number): void;
  /** Load a page of messages; rejects with `ChatError`. */
  history(options?: {
    limit?: number;
    before?: string | null;
    includeReplaced?: boolean;
  }): Promise<MessagesPage>;
  addEventListener<Type extends keyof ClientEvents>(
    type: Type,
    listener: (event: CustomEvent<ClientEvents[Type]>) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
}

export class ChatError extends Error {
  readonly code: ErrorCode | "unreachable" | (string & {});
  readonly retryable: boolean;
  readonly retryAfterMs: number | null;
  /** The HTTP status; null if there was no answer. */
  readonly status: number | null;
}

export interface Turn {
  readonly turn: number;
  /** Which attempt its text is of; null of a turn that only a page told of. */
  attempt: number | null;
  status: "queued" | "running" | "complete" | "cancelled" | "error" | "interrupted";
  user: { messageId: string; content: string; createdAt: string } | null;
  reply: {
    messageId: string | null;
    content: string;
    finishReason: FinishReason | null;
    tokenCount: number;
    totalTokens: number | null;
    tokenUsage: Record<string, unknown> | null;
    timing: Timing | null;
    createdAt: string | null;
  };
  queue: { position: number | null; etaMs: number | null } | null;
  error: { code: ErrorCode; message: string; retryable: boolean; retryAfterMs: number | null } | null;
  replaces: number | null;
  replacedBy: number | null;
}

export class Conversation {
  readonly turns: Turn[];
  readonly visible: Turn[];
  readonly loose: Message[];
  readonly open: Turn | null;
  readonly cursor: Cursor | null;
  turn(number: number | null): Turn | null;
  versions(number: number): Turn[];
  load(page: Pick<MessagesPage, "messages" | "cursor">): void;
  reset(page: Pick<MessagesPage, "messages" | "cursor">): void;
  apply(frame: ServerFrame): Turn | null;
}

export function createSession(options?: {
  url?: string | URL;
  token?: TokenSource;
  metadata?: Record<string, unknown>;
  fetch?: typeof globalThis.fetch;
}): Promise<Session>;
export function compareCursors(a: Cursor, b: Cursor): number;
/** Full jitter: any wait from nothing to a bound that doubles with each try, up to the cap. */
export function backoffMs(
  tries: number,
  timing: Pick<Timings, "backoffBaseMs" | "backoffCapMs">,
  random?: () => number,
): number;
