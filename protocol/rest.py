"""Bodies of the REST calls: those of the original specification, with additions only."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, JsonValue, WithJsonSchema
from pydantic_core import PydanticCustomError

from protocol.chat import ChatFields, Model, Text, TurnNumber
from protocol.client_frames import HistoryLimit
from protocol.errors import ErrorCode
from protocol.server_frames import FinishReason, StoredMessage, omitted_if_none
from protocol.text import storable

MAX_QUERY_CHARS = 256


def _short_words(value: str) -> str:
    value = value.strip()
    if not 1 <= len(value) <= MAX_QUERY_CHARS:
        allowed = f"Input should have 1 to {MAX_QUERY_CHARS} characters, beside white space around"
        raise PydanticCustomError("query_length", allowed)
    return value


# White space around is not counted, which neither `minLength` nor `maxLength` could say.
_LENGTH = rf"^\s*\S([\s\S]{{0,{MAX_QUERY_CHARS - 2}}}\S)?\s*$"
Query = Annotated[
    Text,
    AfterValidator(_short_words),
    WithJsonSchema({"type": "string", "pattern": _LENGTH}),
]


def _storable_json(value: Any) -> Any:
    # By recursion, for what has been read is nested no deeper than `MAX_DEPTH`.
    match value:
        case str():
            return storable(value)
        case dict():
            return {storable(name): _storable_json(inner) for name, inner in value.items()}
        case list():
            return [_storable_json(inner) for inner in value]
    return value


class CreateSession(Model):
    """Clients of the original put other fields beside `metadata`, or none at all."""

    metadata: Annotated[dict[str, JsonValue], BeforeValidator(_storable_json)] | None = None


class Session(Model):
    """One conversation."""

    session_id: str
    created_at: str
    last_accessed: str
    metadata: dict[str, Any]


class SessionsQuery(Model):
    """The query of `GET /api/sessions`; with `before`, those that are older than that session."""

    limit: HistoryLimit | None = None
    before: Text | None = None


class SessionList(Model):
    """The caller's own sessions, the newest first; `next_before` asks for the next page."""

    sessions: list[Session]
    next_before: str | None


class TicketReply(Model):
    """What opens one connection, once, instead of the caller's credentials."""

    ticket: str
    expires_in_s: float


class ChatRequest(ChatFields):
    """The body of `POST /api/chat` and `POST /api/chat/stream`."""

    session_id: Text


class CancelRequest(Model):
    """The body of `POST /api/sessions/{id}/cancel`; None means the open turn."""

    turn: TurnNumber | None = None


class HistoryQuery(Model):
    """The query of `GET /api/sessions/{id}/messages`; `q` holds words to look for."""

    limit: HistoryLimit | None = None
    before: Text | None = None
    include: Literal["replaced"] | None = None
    q: Query | None = None


class ExportQuery(Model):
    """The query of `GET /api/sessions/{id}/export`; `format` None leaves it to `Accept`."""

    format: Literal["jsonl", "markdown"] | None = None
    include: Literal["replaced"] | None = None


class ChatReply(Model):
    """The whole reply of one turn."""

    message_id: str
    role: Literal["assistant"] = "assistant"
    content: str
    created_at: str
    token_usage: dict[str, Any] | None
    turn: int
    finish_reason: FinishReason


class Messages(Model):
    """A page of the history, or of what was found in it, oldest first.

    `cursor` is where to go on reading; null on a page asked for with `before` or `q`.
    `total_count` is of all active messages. `next_before` asks for the next page; one of a search
    may hold nothing and still have it: it is where the search was at when its time was up.
    """

    session_id: str
    messages: list[StoredMessage]
    total_count: int
    next_before: str | None
    cursor: str | None


class Cancelled(Model):
    """The turn that is being stopped."""

    turn: int


class Readiness(Model):
    """Whether a gateway takes new work; `missing` says why not."""

    ready: bool
    missing: list[Literal["broker", "database", "draining"]]


class Health(Model):
    """What works; `simulated` tells that no model server is configured.

    `node` is the name of this gateway among many; null if it is alone.
    """

    status: Literal["healthy", "degraded"]
    timestamp: str
    llm_server_available: bool
    database_connected: bool
    broker_connected: bool
    llm_server_busy: bool
    simulated: bool
    node: str | None
    database: Literal["sqlite", "postgresql"]
    broker: Literal["memory", "redis"]
    connections: int
    running_turns: int
    queued_turns: int
    version: str


class Problem(Model):
    """An error, as RFC 9457 has it, with the gateway's own code."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: ErrorCode | Literal["forbidden", "not_found", "method_not_allowed", "body_too_large"]
    retryable: bool
    retry_after_ms: int | None = omitted_if_none()
    turn: int | None = omitted_if_none()
    message_id: str | None = omitted_if_none()
