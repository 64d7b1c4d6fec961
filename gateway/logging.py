"""What is logged, and how: one record is one line, whatever strangers wrote into it."""

import asyncio
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator

FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"

MAX_LINE_CHARS = 8_192
MAX_TRACEBACK_LINES = 200
INDENT = "  "

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
)

_CONTROLS = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # C0, DEL and C1, with which terminals are steered
    "\u2028\u2029"  # end a line for some who read logs
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # change the order in which a line is read
    "\ud800-\udfff"  # cannot be encoded
    "]"
)
_SECRET = "[secret]"  # noqa: S105
_SECRETS = re.compile(
    r"(?P<before>\bbearer[\s.]+)[^\s\"',;]+"
    r"|(?P<name>\b(?:ticket|token|access_token|password|secret)=)[^\s\"'&;]+"
    r"|(?P<user>://[^\s/?#:@]*:)[^\s/?#]+@"
    r"|\bmidm_[a-z2-7]{8}_[\w-]+"
    # Only from its beginning: a search from each of its letters would take the square of the time.
    r"|(?<![\w-])eyJ[\w-]+\.[\w-]+\.[\w-]*",
    re.IGNORECASE,
)


def set_up_logging(*, debug: bool) -> None:
    """Log to standard error: our own lines, and what matters of other people's."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine(FORMAT))
    handler.addFilter(Seldom())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for name in ("gateway", "storage", "llm", "protocol"):
        logging.getLogger(name).setLevel(logging.DEBUG if debug else logging.INFO)
    uvicorn = logging.getLogger("uvicorn.error")
    for matters in (is_no_cancellation, is_no_mistake_of_a_client, without_queries):
        uvicorn.addFilter(matters)  # adding one again changes nothing
    logging.getLogger("asyncio").addFilter(is_no_mistake_of_a_client)


# What a record looks like


class OneLine(logging.Formatter):
    """Formats a record as one line, and what was raised as lines that are indented.

    Nobody can forge a line, change how others look, or have one of more than `MAX_LINE_CHARS`
    characters; what looks like a credential is left out.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Write a record out, without a line break at its end."""
        record.message = message_of(record)
        record.asctime = self.formatTime(record, self.datefmt)
        # Not what `exc_text` keeps: whoever formatted this record before did not look at it.
        details = [self.formatException(record.exc_info)] if record.exc_info else []
        details += [record.stack_info] if record.stack_info else []
        return "\n".join([_clean(self.formatMessage(record).rstrip("\r\n")), *_indented(details)])


def message_of(record: logging.LogRecord) -> str:
    """Say what a record says, even one whose arguments do not fit its message."""
    try:
        return record.getMessage()
    except Exception:
        return f"{record.msg!s}, which its arguments do not fit"


def _indented(details: list[str]) -> Iterator[str]:
    lines = [line for detail in details for line in without_secrets(detail).split("\n")]
    half = MAX_TRACEBACK_LINES // 2
    if len(lines) > MAX_TRACEBACK_LINES:
        # How it began, and what it was in the end.
        more = len(lines) - MAX_TRACEBACK_LINES
        lines = [*lines[:half], f"… ({more} lines more)", *lines[-half:]]
    return (_cut(f"{INDENT}{_escaped(line)}") for line in lines)


def _clean(text: str) -> str:
    return _cut(_escaped(without_secrets(text)))


def without_secrets(text: str) -> str:
    """Leave out what looks like a credential; nothing should have logged it in the first place."""
    return _SECRETS.sub(_hide, text)


def _hide(found: re.Match[str]) -> str:
    at = "@" if found["user"] else ""
    return f"{found['before'] or found['name'] or found['user'] or ''}{_SECRET}{at}"


def _escaped(text: str) -> str:
    # Not by a codec, which is a module to be loaded: there may be no file left to open for it.
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def _cut(line: str) -> str:
    if len(line) <= MAX_LINE_CHARS:
        return line
    # It takes room of its own, as much as the largest number would.
    kept = MAX_LINE_CHARS - len(_rest_of(len(line)))
    return line[:kept] + _rest_of(len(line) - kept)


def _rest_of(chars: int) -> str:
    return f"… ({chars} characters more)"


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
