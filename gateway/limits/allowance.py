"""What one caller may ask for: how much at once, how often, and how many turns at a time."""

import math
from dataclasses import dataclass

from gateway.ask import Ask
from gateway.limits.buckets import Buckets, Rate
from protocol.errors import ErrorCode, Refusal
from storage.shares import Share


@dataclass(frozen=True)
class AskLimits:
    """The limits; for `messages_per_minute`, `max_open` and `max_queued` 0 is none."""

    max_message_chars: int
    max_new_tokens: int
    messages_per_minute: int
    max_open: int
    max_queued: int


class Allowance:
    """Says whether an ask is within what its caller may."""

    def __init__(self, limits: AskLimits, buckets: Buckets) -> None:
        self._limits = limits
        self._buckets = buckets
        self._messages = Rate(per_minute=limits.messages_per_minute)

    async def check(self, ask: Ask) -> None:
        """Let an ask pass; raises `Refusal`: `message_too_long`, `bad_frame`, `rate_limited`."""
        self._check_size(ask)
        if ask.account is not None:
            await spend(self._buckets, f"messages:{ask.account}", self._messages)

    def share(self, account: str | None) -> Share | None:
        """Say what storage is to count of a turn; None where nothing is."""
        limits = self._limits
        if account is None or not (limits.max_open or limits.max_queued):
            return None
        return Share(account, limits.max_open or None, limits.max_queued or None)

    def _check_size(self, ask: Ask) -> None:
        most = self._limits.max_message_chars
        if ask.message is not None and len(ask.message) > most:
            text = f"message: at most {most} characters are allowed, given {len(ask.message)}"
            raise Refusal(ErrorCode.MESSAGE_TOO_LONG, text)
        tokens = ask.given.max_new_tokens
        if tokens is not None and tokens > self._limits.max_new_tokens:
            text = f"max_new_tokens: at most {self._limits.max_new_tokens} are allowed"
            raise Refusal(ErrorCode.BAD_FRAME, f"{text}, given {tokens}")


async def spend(buckets: Buckets, key: str, rate: Rate) -> None:
    """Take a token out of a bucket; `Refusal` (`rate_limited`) says when there will be one."""
    wait_s = await buckets.take(key, rate)
    if wait_s > 0:
        raise Refusal(ErrorCode.RATE_LIMITED, retry_after_ms=math.ceil(wait_s * 1000))
