"""What the server says, on every transport: each frame and event as a model.

An event is a frame that belongs to the log; its `id` is the cursor behind it.
"""

from dataclasses import dataclass, field
from json.encoder import encode_basestring
from typing import Any, Literal, Self

from pydantic import Field

from protocol.chat import (
    MAX_MESSAGE_CHARS,
    MAX_NEW_TOKENS,
    MAX_REQUEST_ID_CHARS,
    Model,
)
from protocol.cursor import Cursor
from protocol.errors import CATALOGUE, ErrorCode, Refusal
from protocol.websocket import text_message

PROTOCOL = "midm.chat.v1"
MAX_EVENT_CHARS = 16_384
"""One `token` event carries at most this many characters (Unicode code points)."""

TurnStatus = Literal["queued", "running", "complete", "cancelled", "failed", "interrupted"]
CompleteReason = Literal["stop", "length", "cancelled"]
FinishReason = Literal["stop", "length", "cancelled", "error", "interrupted"]


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


def omitted_if_none() -> Any:
    return Field(default=None, exclude_if=lambda value: value is None)


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

    max_message_chars: int = MAX_MESSAGE_CHARS
    max_new_tokens: int = MAX_NEW_TOKENS
    max_request_id_chars: int = MAX_REQUEST_ID_CHARS
    max_frame_bytes: int


class OpenTurn(Model):
    """The turn that is not over yet."""

    turn: int
    status: TurnStatus
    position: int | None = omitted_if_none()


class Ready(ServerFrame):
    """The first frame; `cursor` is where this connection starts reading."""

    type: Literal["ready"] = "ready"
    protocol: str = PROTOCOL
    session_id: str
    created: bool
    resumed: bool
    cursor: str
    heartbeat_s: float
    limits: Limits
    turn: OpenTurn | None


class Accepted(ServerFrame):
    """To the sender alone: its message is durably that turn."""

    type: Literal["accepted"] = "accepted"
    turn: int
    request_id: str | None = omitted_if_none()
    duplicate: bool
    status: TurnStatus


class UserMessage(Model):
    """The question of a turn, as it is stored."""

    message_id: str
    content: str
    created_at: str


class Start(ServerFrame):
    """A turn begins, or begins again: whatever a client shows of its reply is void."""

    type: Literal["start"] = "start"
    id: str
    turn: int
    attempt: int
    message_id: str
    user_message: UserMessage
    request_id: str | None = omitted_if_none()
    replaces: int | None = omitted_if_none()


class Queued(ServerFrame):
    """The model is busy; `position` 1 is next. `eta_ms` is an estimate in milliseconds."""

    type: Literal["queued"] = "queued"
    turn: int
    position: int
    eta_ms: int | None = omitted_if_none()


class Token(ServerFrame):
    """More text of the reply; `token_count` is what the model server counted so far."""

    type: Literal["token"] = "token"
    id: str
    turn: int
    content: str
    token_count: int


class Timing(Model):
    """Milliseconds of waiting for the model, of waiting for its first text, and of all."""

    queue_ms: int | None
    first_token_ms: int | None
    duration_ms: int | None


class Complete(ServerFrame):
    """The reply is whole, or was cancelled, and is stored."""

    type: Literal["complete"] = "complete"
    id: str
    turn: int
    message_id: str
    finish_reason: CompleteReason
    total_tokens: int
    token_usage: dict[str, int] | None
    created_at: str
    timing: Timing


class Error(ServerFrame):
    """Something failed. With `id` and `turn` it is the end of that turn, and stored."""

    type: Literal["error"] = "error"
    id: str | None = omitted_if_none()
    turn: int | None = omitted_if_none()
    message_id: str | None = omitted_if_none()
    code: ErrorCode
    message: str
    retryable: bool
    retry_after_ms: int | None = omitted_if_none()
    request_id: str | None = omitted_if_none()

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
    """One message of the history; `turn` is null for rows that belong to no turn."""

    message_id: str
    session_id: str
    role: Literal["user", "assistant", "system"]
    content: str
    created_at: str
    token_usage: dict[str, Any] | None
    turn: int | None
    finish_reason: FinishReason | None
    replaced_by: int | None = omitted_if_none()


class History(ServerFrame):
    """A page of messages, oldest first; `next_before` asks for the page before it."""

    type: Literal["history"] = "history"
    messages: list[StoredMessage]
    total_count: int
    next_before: str | None
    request_id: str | None = omitted_if_none()


class ServerPing(ServerFrame):
    """The server is there, though it has nothing to say."""

    type: Literal["ping"] = "ping"


class Pong(ServerFrame):
    """The answer to a client's `ping`."""

    type: Literal["pong"] = "pong"
    request_id: str | None = omitted_if_none()


class Reconnect(ServerFrame):
    """The server is about to go away: come back after `after_ms` milliseconds."""

    type: Literal["reconnect"] = "reconnect"
    reason: str
    after_ms: int


class Help(ServerFrame):
    """What can be typed by hand."""

    type: Literal["help"] = "help"
    text: str


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
