"""What the gateway asks of any model server, and how such a call can fail."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

FinishReason = Literal["stop", "length"]

Say = Callable[[str, int], None]
"""Takes the next piece of a reply and the count of pieces so far, at once and without waiting."""


@dataclass(frozen=True)
class PromptMessage:
    """One message of the prompt, as every chat model takes it."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Generation:
    """How the model is to answer; already validated, safe to send to any driver."""

    max_new_tokens: int
    temperature: float
    do_sample: bool


@dataclass(frozen=True)
class Usage:
    """Tokens as the model server counted them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


@dataclass(frozen=True)
class Ending:
    """How a reply ended that ended well.

    `total_pieces` counts what the model server streamed (words for midm, never tokens);
    `usage` is None where the server does not tell.
    """

    finish_reason: FinishReason
    total_pieces: int
    usage: Usage | None = None


@dataclass(frozen=True)
class Patience:
    """How long to wait for a model server, in seconds; each limit has its own error.

    `first_token_s` and `silence_s` are for streamed replies; `reply_s` is for a whole reply that
    comes in one piece, which takes longer than a first token.

    The limit of a whole turn is not here: it spans retries, and belongs to whoever runs the turn.
    """

    connect_s: float = 5.0
    first_token_s: float = 120.0
    silence_s: float = 120.0
    reply_s: float = 300.0


class UpstreamError(Exception):
    """A call of the model server failed.

    The text is for the log. It may hold addresses and the server's own words, so it is never
    shown to a client.
    """


class UpstreamUnavailable(UpstreamError):
    """Nobody answers, the connection broke, or the server says it is overloaded.

    `replied` tells whether it had begun to reply: only a call that got no reply may be repeated.
    """

    def __init__(self, message: str, *, replied: bool = False) -> None:
        self.replied = replied
        super().__init__(message)


class UpstreamTimeout(UpstreamError):
    """No connection, or no first piece of the reply, in time."""


class NoConnection(UpstreamTimeout):
    """Not even a connection in time: nothing was sent, so another server may be asked."""


class UpstreamStalled(UpstreamError):
    """The reply began and then fell silent for too long."""


class UpstreamFailed(UpstreamError):
    """The server answered, and the answer was an error or made no sense."""


class ContextExceeded(UpstreamFailed):
    """The server says that the prompt, or what it was to become, is more than its model takes."""


class ReplyTooLong(UpstreamFailed):
    """The reply went on for longer than a reply may be; the server was left while it spoke."""


def left_at_work(error: BaseException) -> bool:
    """Whether a call that ended so may leave its server generating for nobody."""
    given_up = (UpstreamTimeout, UpstreamStalled, ReplyTooLong, asyncio.CancelledError)
    return isinstance(error, given_up) and not isinstance(error, NoConnection)


class Driver(Protocol):
    """Speaks one model server's wire.

    Cancelling a call closes its connection before the cancellation goes on. No call outlives
    `aclose()`.
    """

    async def stream(
        self, messages: Sequence[PromptMessage], generation: Generation, say: Say
    ) -> Ending:
        """Ask for a reply and hand its pieces to `say` as they arrive; raise `UpstreamError`."""

    async def complete(
        self, messages: Sequence[PromptMessage], generation: Generation, say: Say
    ) -> Ending:
        """Ask for a reply in one piece, handed to `say` once; raise `UpstreamError`."""

    async def healthy(self) -> bool:
        """Whether the server says that its model is loaded; raise `UpstreamError` if it is mute."""

    async def aclose(self) -> None:
        """Close every connection that is left."""
