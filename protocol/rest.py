"""Bodies of the REST calls: those of the original specification, with additions only."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, WithJsonSchema
from pydantic_core import PydanticCustomError

from protocol.chat import ChatFields, Model, Text, TurnNumber
from protocol.client_frames import HistoryLimit
from protocol.errors import ErrorCode
from protocol.server_frames import (
    CursorText,
    FinishReason,
    ReplyId,
    Retryable,
    StoredMessage,
    Time,
    Turn,
    omitted_if_none,
)
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

    metadata: Annotated[dict[str, JsonValue], BeforeValidator(_storable_json)] | None = Field(
        default=None, description="Whatever the client wants to keep with the session."
    )


class Session(Model):
    """One conversation."""

    session_id: str = Field(description="Its id.")
    created_at: Time
    last_accessed: Time
    metadata: dict[str, Any] = Field(description="What it was begun with.")


class SessionsQuery(Model):
    """The query of `GET /api/sessions`; with `before`, those that are older than that session."""

    limit: HistoryLimit | None = Field(default=None, description="At most so many; left out: 100.")
    before: Text | None = Field(
        default=None, description="A `session_id`: only sessions older than that one."
    )


class SessionList(Model):
    """The caller's own sessions, the newest first; `next_before` asks for the next page."""

    sessions: list[Session] = Field(description="The newest first.")
    next_before: str | None = Field(description="`before` of the next page; null: none.")


class TicketReply(Model):
    """What opens one connection, once, instead of the caller's credentials."""

    ticket: str = Field(description="Goes into the query, as `ticket`.")
    expires_in_s: float = Field(description="Seconds for which it is good.")


class ChatRequest(ChatFields):
    """The body of `POST /api/chat` and `POST /api/chat/stream`."""

    session_id: Text = Field(description="The session it is said in.")


class CancelRequest(Model):
    """The body of `POST /api/sessions/{id}/cancel`."""

    turn: TurnNumber | None = Field(
        default=None, description="Which one to stop; left out: the open one."
    )


class HistoryQuery(Model):
    """The query of `GET /api/sessions/{id}/messages`; `q` holds words to look for."""

    limit: HistoryLimit | None = Field(
        default=None, description="At most so many messages; left out: 100."
    )
    before: Text | None = Field(
        default=None, description="A `message_id`: only messages older than that one."
    )
    include: Literal["replaced"] | None = Field(
        default=None, description="Show replaced turns too, marked `replaced_by`."
    )
    q: Query | None = Field(
        default=None,
        description="Words: only messages that hold all of them, within words too.",
    )


class ExportQuery(Model):
    """The query of `GET /api/sessions/{id}/export`; `format` None leaves it to `Accept`."""

    format: Literal["jsonl", "markdown"] | None = Field(
        default=None, description="What to write; left out, `Accept` decides."
    )
    include: Literal["replaced"] | None = Field(
        default=None, description="Write replaced turns too, marked `replaced_by`."
    )


class ChatReply(Model):
    """The whole reply of one turn."""

    message_id: ReplyId
    role: Literal["assistant"] = Field(default="assistant", description="Who said it.")
    content: str = Field(description="Its text.")
    created_at: Time
    token_usage: dict[str, Any] | None = Field(description="As the model server gave it.")
    turn: Turn
    finish_reason: FinishReason = Field(description="How it ended.")


class Messages(Model):
    """A page of the history, or of what was found in it, oldest first.

    `cursor` is where to go on reading; null on a page asked for with `before` or `q`.
    `total_count` is of all active messages. `next_before` asks for the next page; one of a search
    may hold nothing and still have it: it is where the search was at when its time was up.
    """

    session_id: str = Field(description="The session.")
    messages: list[StoredMessage] = Field(description="Ordered by turn, then role.")
    total_count: int = Field(description="How many active messages there are in all.")
    next_before: str | None = Field(description="`before` of the page before; null: none.")
    cursor: CursorText | None = Field(description="Connect with it as `after`.")


class Cancelled(Model):
    """The turn that is being stopped."""

    turn: Turn


class Readiness(Model):
    """Whether a gateway takes new work; `missing` says why not."""

    ready: bool = Field(description="Whether it does.")
    missing: list[Literal["broker", "database", "draining"]] = Field(description="What it lacks.")


class ModelServers(Model):
    """How many model servers there are, and how many of them are available."""

    available: int = Field(description="How many can be asked.")
    total: int = Field(description="How many there are.")


class Health(Model):
    """What works; `simulated` tells that no model server is configured.

    `node` is the name of this gateway among many; null if it is alone.
    """

    status: Literal["healthy", "degraded"] = Field(description="Whether all of it works.")
    timestamp: Time
    llm_server_available: bool = Field(description="Whether the model server can be asked.")
    database_connected: bool = Field(description="Whether the database answers.")
    broker_connected: bool = Field(description="Whether other nodes can be heard.")
    llm_server_busy: bool = Field(description="Whether it is at work, and so may be silent.")
    llm_servers: ModelServers = Field(description="How many there are, and can be asked.")
    simulated: bool = Field(description="Whether the answers are made up.")
    node: str | None = Field(description="The name of this gateway among many.")
    database: Literal["sqlite", "postgresql"] = Field(description="Where conversations are.")
    broker: Literal["memory", "redis"] = Field(description="What carries running turns.")
    connections: int = Field(description="Open WebSockets.")
    running_turns: int = Field(description="Turns that run here.")
    queued_turns: int = Field(description="Turns that wait for the model.")
    version: str = Field(description="The version of the gateway.")


class Problem(Model):
    """An error, as RFC 9457 has it, with the gateway's own code."""

    type: str = Field(default="about:blank", description="No page tells more.")
    title: str = Field(description="The name of the status.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What is wrong, for people.")
    code: ErrorCode | Literal["forbidden", "not_found", "method_not_allowed", "body_too_large"] = (
        Field(description="What is wrong, for programs.")
    )
    retryable: Retryable
    retry_after_ms: int | None = omitted_if_none("Not before so many milliseconds.")
    turn: int | None = omitted_if_none("The turn that failed.")
    message_id: str | None = omitted_if_none("The `message_id` of the reply that failed.")
