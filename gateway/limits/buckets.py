"""Token buckets: so many at once, and so many a minute from then on.

The generic cell rate algorithm, in its form of virtual scheduling (ITU-T I.371, annex A): all that
is kept of a bucket is one number, the moment when it will be full again (the "theoretical arrival
time"). Each token taken puts that off by the time that one token takes to come.

Times are whole microseconds, so that whoever comes back after exactly the wait it was told is
served; and so that Redis, which has the time in these, counts the same.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from heapq import heappop, heappush, heapreplace
from typing import Protocol

MICROS = 1_000_000
MAX_KEYS = 100_000
MAX_LOOKS = 16
"""How many buckets at most are looked at to make room for a new one."""


@dataclass(frozen=True)
class Rate:
    """How many tokens come in a minute, 0 for no limit, and how many there are at most.

    Without `burst` there are as many as come in a quarter of a minute, rounded up. In no minute are
    more taken than both together. Raises `ValueError` for what is less than nothing, and for a
    bucket that never holds a token.
    """

    per_minute: int
    burst: int | None = None

    def __post_init__(self) -> None:
        if self.per_minute < 0:
            raise ValueError(f"a rate of {self.per_minute} a minute is less than none")
        if self.burst is not None and self.burst < 1:
            raise ValueError(f"a burst of {self.burst} would let nothing pass")

    @cached_property
    def size(self) -> int:
        """How many tokens a full bucket holds."""
        return -(-self.per_minute // 4) if self.burst is None else self.burst

    @cached_property
    def interval_us(self) -> int:
        """How long one token takes to come, rounded up; there must be a limit."""
        return -(-60 * MICROS // self.per_minute)

    @cached_property
    def tolerance_us(self) -> int:
        """How far from full a bucket may be that still holds a token."""
        return (self.size - 1) * self.interval_us


class Buckets(Protocol):
    """A bucket for each key, full at first."""

    async def take(self, key: str, rate: Rate) -> float:
        """Take a token: 0.0 if there was one, else in how many seconds one will be there.

        Nothing is taken in the second case. Cancelled, it may have taken one.
        """


def taken(full_at_us: int, now_us: int, rate: Rate) -> tuple[int, int]:
    """Take a token from a bucket that will be full at some time.

    Returns when it will be full then, and 0; or how long to wait, and nothing is taken.
    """
    # Nothing is emptier than empty: not after the clock was set back, nor with a new rate.
    empty_us = now_us + rate.tolerance_us + rate.interval_us
    full_at_us = min(max(full_at_us, now_us), empty_us)
    wait_us = full_at_us - now_us - rate.tolerance_us
    if wait_us > 0:
        return full_at_us, wait_us
    return full_at_us + rate.interval_us, 0


class MemoryBuckets:
    """The buckets of one process. Implements `Buckets`; `clock` is in seconds, never set back.

    No more than `max_keys` are kept. Those that are full are forgotten first, which makes no
    difference to anybody; then those nearest to full: whoever comes with ever new keys makes room
    among their own, and empties nobody's memory of who has taken too much.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, max_keys: int = MAX_KEYS
    ) -> None:
        self._clock = clock
        self._max_keys = max_keys
        self._full_at: dict[str, int] = {}
        # Each key once, by when it was to be full when it was last looked at.
        self._fullest: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._full_at)

    async def take(self, key: str, rate: Rate) -> float:
        """Take a token; it never waits."""
        return self.take_now(key, rate)

    def take_now(self, key: str, rate: Rate) -> float:
        """Take a token: 0.0 if there was one, else in how many seconds one will be there."""
        if not rate.per_minute:
            return 0.0
        now_us = round(self._clock() * MICROS)
        known = self._full_at.get(key)
        full_at_us, wait_us = taken(now_us if known is None else known, now_us, rate)
        if known is None:
            self._make_room(now_us)
            heappush(self._fullest, (full_at_us, key))
        self._full_at[key] = full_at_us
        return wait_us / MICROS

    def _make_room(self, now_us: int) -> None:
        """Forget what is full, or else one bucket if there is no room for another."""
        for _ in range(MAX_LOOKS):
            if not self._fullest:
                return
            noted_us, key = self._fullest[0]
            full_at_us = self._full_at[key]
            if full_at_us > noted_us:
                heapreplace(self._fullest, (full_at_us, key))
            elif full_at_us <= now_us or self._is_crowded:
                self._forget_first()
            else:
                return
        if self._is_crowded:
            self._forget_first()

    @property
    def _is_crowded(self) -> bool:
        return len(self._full_at) >= self._max_keys

    def _forget_first(self) -> None:
        _, key = heappop(self._fullest)
        del self._full_at[key]
