"""What the server says, on every transport: each frame and event as a model.

An event is a frame that belongs to the log; its `id` is the cursor behind it.
"""

from dataclasses import dataclass, field
from json.encoder import encode_basestring
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from protocol.chat import (
    MAX_MESSAGE_CHARS,
    MAX_NEW_TOKENS,
    MAX_REQUEST_ID_CHARS,
    Model,
)
from protocol.cursor import PATTERN, Cursor
from protocol.errors import CATALOGUE, ErrorCode, Refusal
from protocol.websocket import text_message

PROTOCOL = "midm.chat.v1"
MAX_EVENT_CHARS = 16_384
"""One `token` event carries at most this many characters (Unicode code points)."""

TurnStatus = Literal["queued", "running", "complete", "cancelled", "failed", "interrupted"]
CompleteReason = Literal["stop", "length", "cancelled"]
FinishReason = Literal["stop", "length", "cancelled", "error", "interrupted"]

# What follows describes fields. Nothing here is asked of a value: the server makes them.
CursorText = Annotated[
    str, Field(json_schema_extra={"pattern": f"^{PATTERN}$".replace(r"\d", "[0-9]")})
]
EventId = Annotated[
    CursorText,
    Field(description="The cursor behind this event: store the last one, come back with it."),
]
Time = Annotated[
    str, Field(json_schema_extra={"format": "date-time"}, description="UTC, RFC 3339 with `Z`.")
]
Turn = Annotated[int, Field(description="The number of the turn in its session, from 1 on.")]
ReplyId = Annotated[str, Field(description="The `message_id` of the reply.")]
Retryable = Annotated[bool, Field(description="Whether the same may work later.")]


@dataclass(slots=True)
class Frame:
    """A frame ready to be sent: what it is, its place in the log if it has one, its JSON.

    Nobody changes one: all readers share it. It is not frozen because that makes it cost twice as
    much, once for every token.
    """

    type: str
    cursor: Cursor | None
    text: str
    _message: bytes = field(default=b"", init=False, repr=False, compare=False)

    @property
    def message(self) -> bytes:
        """Its JSON as a WebSocket message, written once for however many connections."""
        message = self._message
        if not message:
            message = self._message = text_message(self.text)
        return message


def omitted_if_none(description: str) -> Any:
    """Describe a field that is left out where it has nothing to say, instead of being null."""
    return Field(default=None, exclude_if=lambda value: value is None, description=description)


class ServerFrame(Model):
    """Anything the server says."""

    type: str

    def frame(self) -> Frame:
        """Encode once, for however many connections."""
        place = getattr(self, "id", None)
        cursor = Cursor.parse(place) if place else None
        return Frame(self.type, cursor, self.model_dump_json())


class Limits(Model):
    """What the server will not take more of."""

    max_message_chars: int = Field(MAX_MESSAGE_CHARS, description="Code points of a message.")
    max_new_tokens: int = Field(MAX_NEW_TOKENS, description="The most one may ask for.")
    max_request_id_chars: int = Field(MAX_REQUEST_ID_CHARS, description="Code points of an id.")
    max_frame_bytes: int = Field(description="Bytes of one WebSocket message.")


class OpenTurn(Model):
    """The turn that is not over yet."""

    turn: Turn
    status: TurnStatus = Field(description="`queued` or `running`.")
    position: int | None = omitted_if_none("Its place in the queue; 1 is next.")


class Ready(ServerFrame):
    """The first frame of a connection, once it is known whose it is."""

    type: Literal["ready"] = "ready"
    protocol: str = Field(PROTOCOL, description="The name and version of this contract.")
    session_id: str = Field(description="The session; come back with it as `session_id`.")
    created: bool = Field(description="Whether the session was begun by this connection.")
    resumed: bool = Field(
        description="Whether `after` was given and is where reading starts. If it was given and"
        " this is false: clear what is shown, load the history and go on from its cursor."
    )
    cursor: CursorText = Field(description="Where reading starts; to be stored like an `id`.")
    heartbeat_s: float = Field(description="Seconds of silence after which the server pings.")
    limits: Limits = Field(description="What this server takes at most.")
    turn: OpenTurn | None = Field(description="The open turn of the session, if there is one.")


class Accepted(ServerFrame):
    """To the sender alone: its message is durably that turn."""

    type: Literal["accepted"] = "accepted"
    turn: Turn
    request_id: str | None = omitted_if_none("That of the request, if it had one.")
    duplicate: bool = Field(description="Whether this request had been accepted before.")
    status: TurnStatus = Field(description="What has become of the turn so far.")


class UserMessage(Model):
    """The question of a turn, as it is stored."""

    message_id: str = Field(description="Its id in the history.")
    content: str = Field(description="Its text.")
    created_at: Time


class Start(ServerFrame):
    """A turn begins, or begins again: whatever a client shows of its reply is void."""

    type: Literal["start"] = "start"
    id: EventId
    turn: Turn
    attempt: int = Field(description="Rises when the turn is taken up again after a failure.")
    message_id: ReplyId
    user_message: UserMessage = Field(description="The question, which is stored by now.")
    request_id: str | None = omitted_if_none("That of the request, if it had one.")
    replaces: int | None = omitted_if_none("This turn hides those from that one on.")


class Queued(ServerFrame):
    """The model is busy; sent when the position changes, at most once a second."""

    type: Literal["queued"] = "queued"
    turn: Turn
    position: int = Field(description="1 is next.")
    eta_ms: int | None = omitted_if_none("An estimate, in milliseconds.")


class Token(ServerFrame):
    """More text of the reply, to be appended; where it is cut means nothing."""

    type: Literal["token"] = "token"
    id: EventId
    turn: Turn
    content: str = Field(description=f"At most {MAX_EVENT_CHARS} characters.")
    token_count: int = Field(description="What the model server counted so far.")


class Timing(Model):
    """Where the time of a turn went; null where it is not known."""

    queue_ms: int | None = Field(description="Milliseconds of waiting for the model.")
    first_token_ms: int | None = Field(description="Milliseconds until its first text.")
    duration_ms: int | None = Field(description="Milliseconds of all.")


class Complete(ServerFrame):
    """The reply is whole, or was cancelled, and is stored."""

    type: Literal["complete"] = "complete"
    id: EventId
    turn: Turn
    message_id: ReplyId
    finish_reason: CompleteReason = Field(
        description="`stop`: the model was done; `length`: `max_new_tokens`; `cancelled`."
    )
    total_tokens: int = Field(description="What the model server counted.")
    token_usage: dict[str, int] | None = Field(description="As the model server gave it.")
    created_at: Time
    timing: Timing = Field(description="Where the time went.")


class Error(ServerFrame):
    """Something failed. With `id` and `turn` it is the end of that turn, and stored.

    Without them turn and connection go on.
    """

    type: Literal["error"] = "error"
    id: EventId | None = omitted_if_none("Only where it ends a turn: the cursor behind it.")
    turn: Turn | None = omitted_if_none("Only where it ends that turn.")
    message_id: str | None = omitted_if_none("The `message_id` of the reply, whatever it holds.")
    code: ErrorCode = Field(description="What went wrong.")
    message: str = Field(description="For people.")
    retryable: Retryable
    retry_after_ms: int | None = omitted_if_none("Not before so many milliseconds.")
    request_id: str | None = omitted_if_none("That of the request which is refused.")

    @classmethod
    def of(cls, refusal: Refusal, *, request_id: str | None = None) -> Self:
        """Say a refusal; `request_id` is that of the frame it answers."""
        return cls(
            code=refusal.code,
            message=refusal.message,
            retryable=CATALOGUE[refusal.code].retryable,
            retry_after_ms=refusal.retry_after_ms,
            request_id=refusal.request_id or request_id,
        )


class StoredMessage(Model):
    """One message of the history."""

    message_id: str = Field(description="Its id.")
    session_id: str = Field(description="The session it is in.")
    role: Literal["user", "assistant", "system"] = Field(description="Who said it.")
    content: str = Field(description="Its text.")
    created_at: Time
    token_usage: dict[str, Any] | None = Field(description="As the model server gave it.")
    turn: int | None = Field(description="Its turn; null for rows that belong to none.")
    finish_reason: FinishReason | None = Field(description="How a reply ended; null for others.")
    replaced_by: int | None = omitted_if_none("The turn that hides it.")


class History(ServerFrame):
    """A page of messages, oldest first; nothing beyond this connection's position."""

    type: Literal["history"] = "history"
    messages: list[StoredMessage] = Field(description="Ordered by turn, then role.")
    total_count: int = Field(description="How many active messages there are in all.")
    next_before: str | None = Field(description="`before` of the page before; null: none.")
    request_id: str | None = omitted_if_none("That of the request, if it had one.")


class ServerPing(ServerFrame):
    """The server is there, though it has nothing to say; nobody has to answer."""

    type: Literal["ping"] = "ping"


class Pong(ServerFrame):
    """The answer to a client's `ping`."""

    type: Literal["pong"] = "pong"
    request_id: str | None = omitted_if_none("That of the `ping`, if it had one.")


class Reconnect(ServerFrame):
    """The server is about to go away: come back after `after_ms`, with the last cursor."""

    type: Literal["reconnect"] = "reconnect"
    reason: str = Field(description="Why, for the log.")
    after_ms: int = Field(description="Milliseconds; different for each connection.")


class Help(ServerFrame):
    """What can be typed by hand."""

    type: Literal["help"] = "help"
    text: str = Field(description="Lines for people.")


SERVER_FRAMES: tuple[type[ServerFrame], ...] = (
    *(Ready, Accepted, Start, Queued, Token, Complete, Error, History),
    *(ServerPing, Pong, Reconnect, Help),
)
"""Every frame there is, in the order in which one meets them."""


def token_frame(cursor: Cursor, content: str, token_count: int) -> Frame:
    """Encode a `token` event, exactly as `Token(...).frame()` would, at a third of the cost.

    Every token passes here: 0.9 µs instead of 3.3, on CPython 3.11.
    """
    turn, attempt, offset = cursor
    # One call of C: the same escapes as pydantic's.
    quoted = encode_basestring(content)
    text = (
        f'{{"type":"token","id":"{turn}.{attempt}.{offset}","turn":{turn},'
        f'"content":{quoted},"token_count":{token_count}}}'
    )
    return Frame("token", cursor, text)


def token_frames(cursor: Cursor, text: str, token_count: int, *, since: int = 0) -> list[Frame]:
    """Encode the text that lies before `cursor`, in as few events as may carry it.

    `token_count` is the count at the end of the text and `since` the one before it; events in
    between say their share.
    """
    turn, attempt, end = cursor
    begin = end - len(text)
    frames = []
    for offset in range(begin, end, MAX_EVENT_CHARS):
        upto = min(offset + MAX_EVENT_CHARS, end)
        count = since + (token_count - since) * (upto - begin) // len(text)
        content = text[offset - begin : upto - begin]
        frames.append(token_frame(Cursor(turn, attempt, upto), content, count))
    return frames
