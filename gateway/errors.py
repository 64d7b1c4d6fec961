"""The one table in which exceptions become error codes."""

import logging

from gateway.nodes.away import BrokerAway
from llm.admission import QueueFull
from llm.circuit import CircuitOpen
from llm.client import (
    ContextExceeded,
    UpstreamFailed,
    UpstreamStalled,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from llm.prompt import ContextTooLong
from protocol.errors import ErrorCode, Refusal
from storage.operations import StorageError

log = logging.getLogger(__name__)


class TurnTimeout(Exception):
    """The whole turn took longer than it may."""


CODES: dict[type[Exception], ErrorCode] = {
    UpstreamUnavailable: ErrorCode.UPSTREAM_UNAVAILABLE,
    UpstreamTimeout: ErrorCode.UPSTREAM_TIMEOUT,
    UpstreamStalled: ErrorCode.UPSTREAM_STALLED,
    UpstreamFailed: ErrorCode.UPSTREAM_ERROR,
    ContextExceeded: ErrorCode.CONTEXT_TOO_LONG,
    TurnTimeout: ErrorCode.TURN_TIMEOUT,
    ContextTooLong: ErrorCode.CONTEXT_TOO_LONG,
    CircuitOpen: ErrorCode.UPSTREAM_UNAVAILABLE,
    QueueFull: ErrorCode.QUEUE_FULL,
    StorageError: ErrorCode.STORAGE_ERROR,
    BrokerAway: ErrorCode.STORAGE_ERROR,
}


def code_of(kind: type[Exception]) -> ErrorCode | None:
    """Say which code a kind of exception becomes; None for what nobody foresaw."""
    return next((CODES[each] for each in kind.__mro__ if each in CODES), None)


def as_refusal(error: Exception) -> Refusal:
    """Say an exception to a client, in the catalogue's words and never in its own.

    What is in no table is a mistake of ours: it is logged with its traceback.
    """
    match error:
        case Refusal():
            return error
        case ContextTooLong(chars=chars, max_chars=most):
            text = f"message: {chars} characters, of which the model's context takes {most}"
            return Refusal(ErrorCode.CONTEXT_TOO_LONG, text)
        case QueueFull(retry_after_ms=after_ms) | CircuitOpen(retry_after_ms=after_ms):
            return Refusal(CODES[type(error)], retry_after_ms=after_ms)
        case BrokerAway():
            text = "What connects the gateways cannot be reached right now."
            return Refusal(ErrorCode.STORAGE_ERROR, text)
    code = code_of(type(error))
    if code is None:
        log.error("an unforeseen error", exc_info=error)
        code = ErrorCode.INTERNAL
    return Refusal(code)
