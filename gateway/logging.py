"""What is logged, and how often; how it is written is in `gateway.log_lines`."""

import asyncio
import logging
import sys
import time
from collections.abc import Callable
from typing import Literal

from gateway.log_lines import FORMAT, JsonLine, OneLine, message_of

LogFormat = Literal["text", "json"]

A_MINUTE_S = 60.0
MAX_A_MINUTE = 10
"""So many lines of one kind, where strangers can have as many written as they like."""

_APPLICATION_FAILED = "Exception in ASGI application"
_MISTAKES = (
    "Invalid UTF-8 sequence received from client.",
    "Unsupported upgrade request.",
    "socket.send() raised exception.",
)
_NO_FILE_LEFT = "socket.accept() out of system resource"
_PROVOKED = (
    _NO_FILE_LEFT,
    "Invalid HTTP request received.",
    "a connection was dropped",
    "refused a WebSocket",
    # Whose session is deleted, or who loses the right, while it is written out.
    "an export was cut short",
    "ASGI callable returned without completing response",
    # Of a collector of traces that is away.
    "Failed to export",
    "Transient error",
    "Queue full",
)


def set_up_logging(*, debug: bool, form: LogFormat = "text") -> None:
    """Log to standard error: our own lines, and what matters of other people's."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLine() if form == "json" else OneLine(FORMAT))
    handler.addFilter(Seldom())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for name in ("gateway", "storage", "llm", "protocol"):
        logging.getLogger(name).setLevel(logging.DEBUG if debug else logging.INFO)
    uvicorn = logging.getLogger("uvicorn.error")
    for matters in (is_no_cancellation, is_no_mistake_of_a_client, without_queries):
        uvicorn.addFilter(matters)  # adding one again changes nothing
    logging.getLogger("asyncio").addFilter(is_no_mistake_of_a_client)
    logging.getLogger("opentelemetry.util.re").addFilter(without_headers)


# Which records matter


def is_no_cancellation(record: logging.LogRecord) -> bool:
    """Leave out the traceback of a request that was cancelled.

    uvicorn cancels what outlasts its graceful shutdown, says so in one line, and then takes the
    cancellation, caught as a `BaseException`, for a failure of the application.
    """
    error = record.exc_info[1] if record.exc_info else None
    cancelled = isinstance(error, asyncio.CancelledError)
    return not (cancelled and message_of(record).startswith(_APPLICATION_FAILED))


def is_no_mistake_of_a_client(record: logging.LogRecord) -> bool:
    """Leave out what uvicorn and asyncio log each time that a client does something wrong.

    One connection can have any number of these lines, some with a traceback. A client that sends
    what is not UTF-8 is told by the close code 1007 (RFC 6455, section 8.1), one that asks for a
    protocol that we do not speak is answered in ours (RFC 9110, section 7.8), and who goes away
    while it is written to is no news; they must not fill our disk.
    """
    return message_of(record) not in _MISTAKES


def without_queries(record: logging.LogRecord) -> bool:
    """Cut the query off every URL: uvicorn logs it whole, and cursors and tickets are in there."""
    if isinstance(record.args, tuple):
        record.args = tuple(map(_without_query, record.args))
    return True


def without_headers(record: logging.LogRecord) -> bool:
    """Leave out a header for a collector that cannot be read: it is logged whole, key and all."""
    if isinstance(record.args, tuple):
        record.args = ("[not shown]",) * len(record.args)
    return True


def _without_query(argument: object) -> object:
    is_path = isinstance(argument, str) and argument.startswith("/")
    return str(argument).partition("?")[0] if is_path else argument


class Seldom(logging.Filter):
    """Passes of each line that strangers can provoke `MAX_A_MINUTE`, however many they are."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._began_at = -A_MINUTE_S
        self._said: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to pass a record; none of these is an error of ours, or has a traceback."""
        kind = next((kind for kind in _PROVOKED if str(record.msg).startswith(kind)), None)
        if kind is None:
            return True
        record.exc_info = record.exc_text = None
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        if self._clock() - self._began_at >= A_MINUTE_S:
            self._began_at, self._said = self._clock(), {}
        self._said[kind] = self._said.get(kind, 0) + 1
        return self._said[kind] <= MAX_A_MINUTE
