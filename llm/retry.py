"""Repeating calls that the model server never began to answer."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import anyio

from llm.client import UpstreamUnavailable

T = TypeVar("T")


@dataclass(frozen=True)
class Backoff:
    """How often to try again, and how long to wait before: twice as long each time, jittered."""

    max_retries: int = 3
    first_s: float = 0.2
    max_s: float = 5.0

    def wait_s(self, retry: int, *, chance: float) -> float:
        """Seconds to wait before retry 0, 1, 2 …; `chance` between 0 and 1 is the jitter's."""
        longest = min(self.first_s * 2.0**retry, self.max_s)
        return longest * (0.5 + chance / 2)


async def retried(call: Callable[[], Awaitable[T]], *, backoff: Backoff) -> T:
    """Make a call, again if nothing came of it; how long all of it may take is the caller's.

    Only what failed before the first byte of a reply is repeated, and never a call that took too
    long: the model may be at work on it still.
    """
    for retry in range(backoff.max_retries):
        try:
            return await call()
        except UpstreamUnavailable as error:
            if error.replied:
                raise
        await anyio.sleep(backoff.wait_s(retry, chance=random.random()))
    return await call()
