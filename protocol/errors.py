"""The one catalogue of error codes and close codes."""

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class ErrorCode(StrEnum):
    """What went wrong, as every transport says it."""

    BAD_JSON = "bad_json"
    BAD_FRAME = "bad_frame"
    UNKNOWN_TYPE = "unknown_type"
    MESSAGE_TOO_LONG = "message_too_long"
    REQUEST_ID_CONFLICT = "request_id_conflict"
    UNAUTHORIZED = "unauthorized"
    SESSION_NOT_FOUND = "session_not_found"
    TURN_NOT_FOUND = "turn_not_found"
    MESSAGE_NOT_FOUND = "message_not_found"
    TURN_IN_PROGRESS = "turn_in_progress"
    NOTHING_TO_CANCEL = "nothing_to_cancel"
    QUEUE_FULL = "queue_full"
    RATE_LIMITED = "rate_limited"
    UPSTREAM_UNAVAILABLE = "upstream_unavailable"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    UPSTREAM_STALLED = "upstream_stalled"
    TURN_TIMEOUT = "turn_timeout"
    UPSTREAM_ERROR = "upstream_error"
    CONTEXT_TOO_LONG = "context_too_long"
    INTERRUPTED = "interrupted"
    STORAGE_ERROR = "storage_error"
    SHUTTING_DOWN = "shutting_down"
    INTERNAL = "internal"


@dataclass(frozen=True)
class Kind:
    """What is always true of an error code: its HTTP status, and a sentence for people."""

    status: int
    message: str
    retryable: bool = False


CATALOGUE: dict[ErrorCode, Kind] = {
    ErrorCode.BAD_JSON: Kind(422, "This is not valid JSON."),
    ErrorCode.BAD_FRAME: Kind(422, "A field is missing or not as it should be."),
    ErrorCode.UNKNOWN_TYPE: Kind(422, "There is no frame of this type."),
    ErrorCode.MESSAGE_TOO_LONG: Kind(422, "The message is too long."),
    ErrorCode.REQUEST_ID_CONFLICT: Kind(
        409, "This request_id was already used in this session for something else."
    ),
    ErrorCode.UNAUTHORIZED: Kind(401, "Valid credentials are needed."),
    ErrorCode.SESSION_NOT_FOUND: Kind(404, "There is no such session."),
    ErrorCode.TURN_NOT_FOUND: Kind(404, "There is no such turn, or it has been replaced."),
    ErrorCode.MESSAGE_NOT_FOUND: Kind(404, "There is no such message in this session."),
    ErrorCode.TURN_IN_PROGRESS: Kind(
        409, "A reply is still being written in this session; wait for it or cancel it.", True
    ),
    ErrorCode.NOTHING_TO_CANCEL: Kind(409, "There is no open turn to cancel."),
    ErrorCode.QUEUE_FULL: Kind(503, "Too many people are waiting for the model.", True),
    ErrorCode.RATE_LIMITED: Kind(429, "Too many requests; slow down.", True),
    ErrorCode.UPSTREAM_UNAVAILABLE: Kind(
        502, "The model server cannot be reached, or broke off.", True
    ),
    ErrorCode.UPSTREAM_TIMEOUT: Kind(504, "The model server did not begin to answer.", True),
    ErrorCode.UPSTREAM_STALLED: Kind(504, "The model server fell silent.", True),
    ErrorCode.TURN_TIMEOUT: Kind(504, "The reply took too long.", True),
    ErrorCode.UPSTREAM_ERROR: Kind(502, "The model server could not answer this."),
    ErrorCode.CONTEXT_TOO_LONG: Kind(422, "The message is too long for the model's context."),
    ErrorCode.INTERRUPTED: Kind(503, "The reply was interrupted by a restart.", True),
    ErrorCode.STORAGE_ERROR: Kind(503, "The database cannot be used right now.", True),
    ErrorCode.SHUTTING_DOWN: Kind(503, "The server is restarting.", True),
    ErrorCode.INTERNAL: Kind(500, "Something went wrong on the server."),
}


class CloseCode(IntEnum):
    """Why a WebSocket is closed. 4000-4499: reconnect; 4500-4999: do not."""

    NORMAL = 1000
    GOING_AWAY = 1001
    BINARY = 1003
    TOO_LARGE = 1009
    RESTART = 1012
    TRY_LATER = 1013
    TOO_SLOW = 4000
    TOKEN_EXPIRED = 4001
    RATE_LIMITED = 4003
    INTERNAL = 4008
    UNAUTHORIZED = 4500
    INVALID_FRAMES = 4502
    SESSION_GONE = 4504
    TOO_MANY_CONNECTIONS = 4505


CLOSES: dict[CloseCode, str] = {
    CloseCode.NORMAL: "Done.",
    CloseCode.GOING_AWAY: "The server goes away: reconnect with jitter and resume.",
    CloseCode.BINARY: "A binary frame came: frames are text.",
    CloseCode.TOO_LARGE: "A frame was too large.",
    CloseCode.RESTART: "The server restarts: reconnect with jitter and resume.",
    CloseCode.TRY_LATER: "Try again later.",
    CloseCode.TOO_SLOW: "The client could not keep up: reconnect and resume.",
    CloseCode.TOKEN_EXPIRED: "The token has expired: reconnect with a new one.",
    CloseCode.RATE_LIMITED: "Too many requests: reconnect later.",
    CloseCode.INTERNAL: "Something went wrong on the server: reconnect.",
    CloseCode.UNAUTHORIZED: "Valid credentials are needed.",
    CloseCode.INVALID_FRAMES: "Invalid frames came again and again.",
    CloseCode.SESSION_GONE: "There is no such session, or it was deleted.",
    CloseCode.TOO_MANY_CONNECTIONS: "Too many connections are open.",
}
"""What each close code asks of the client."""


class Refusal(Exception):
    """What was asked for is not done, and nothing of it is stored.

    `message` is shown to the client, so it never holds an exception's text or an inner address.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str | None = None,
        *,
        retry_after_ms: int | None = None,
        request_id: str | None = None,
    ) -> None:
        self.code = code
        self.message = message or CATALOGUE[code].message
        self.retry_after_ms = retry_after_ms
        self.request_id = request_id
        super().__init__(f"{code}: {self.message}")
