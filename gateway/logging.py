"""What is logged, and how."""

import asyncio
import logging
import sys

FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"

_APPLICATION_FAILED = "Exception in ASGI application"
_NOT_UTF8 = "Invalid UTF-8 sequence received from client."


def set_up_logging(*, debug: bool) -> None:
    """Log to standard error: our own lines, and what matters of other people's."""
    logging.basicConfig(stream=sys.stderr, format=FORMAT, level=logging.WARNING, force=True)
    for name in ("gateway", "storage", "llm", "protocol"):
        logging.getLogger(name).setLevel(logging.DEBUG if debug else logging.INFO)
    uvicorn = logging.getLogger("uvicorn.error")
    for matters in (is_no_cancellation, is_no_mistake_of_a_client, without_queries):
        uvicorn.addFilter(matters)  # adding one again changes nothing


def is_no_cancellation(record: logging.LogRecord) -> bool:
    """Leave out the traceback of a request that was cancelled.

    uvicorn cancels what outlasts its graceful shutdown, says so in one line, and then takes the
    cancellation, caught as a `BaseException`, for a failure of the application.
    """
    error = record.exc_info[1] if record.exc_info else None
    cancelled = isinstance(error, asyncio.CancelledError)
    return not (cancelled and record.getMessage().startswith(_APPLICATION_FAILED))


def is_no_mistake_of_a_client(record: logging.LogRecord) -> bool:
    """Leave out the traceback that uvicorn logs for each WebSocket frame that is not UTF-8.

    The client is told by the close code 1007 (RFC 6455, section 8.1); it must not fill our disk.
    """
    return record.getMessage() != _NOT_UTF8


def without_queries(record: logging.LogRecord) -> bool:
    """Cut the query off every URL: uvicorn logs it whole, and cursors and tickets are in there."""
    if isinstance(record.args, tuple):
        record.args = tuple(map(_without_query, record.args))
    return True


def _without_query(argument: object) -> object:
    is_path = isinstance(argument, str) and argument.startswith("/")
    return str(argument).partition("?")[0] if is_path else argument
