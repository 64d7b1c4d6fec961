"""Transports that do not wait for ever for their peers."""

import asyncio
from collections.abc import Callable
from typing import Any

from gateway.listening import PeerLimits


class BoundedTransport:
    """A transport that waits for a peer that reads, however slowly, and for no other.

    While its buffer is full, or it is being closed, the peer has to read something at least every
    `read_s` or `close_s` seconds.
    """

    __slots__ = (
        *("inner", "is_full", "takes_more", "write"),
        *("_loop", "_read_s", "_close_s", "_reading", "_closing", "_is_lost", "_is_over"),
        *("_resting", "_is_paused", "_linger_s"),
    )

    def __init__(
        self,
        inner: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        *,
        read_s: float,
        close_s: float,
    ) -> None:
        self.inner = inner
        self.is_full = False
        self.takes_more = True
        """Whether something written now is neither too early nor too late."""
        self._read_s = read_s
        self._close_s = close_s
        self._loop = loop
        # Most peers are never waited for.
        self._reading: Limit | None = None
        self._closing: Limit | None = None
        self._resting: Limit | None = None
        self._is_paused = False
        self._linger_s = 0.0
        self._is_lost = False
        self._is_over = False
        # Not left to `__getattr__`, which is slow: it is used for every token.
        self.write: Callable[[bytes], None] = inner.write

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def finish(self) -> None:
        """Note that the last word has been written."""
        self._is_over, self.takes_more = True, False

    def is_closing(self) -> bool:
        """Whether all that matters to the peer has been said."""
        return self.inner.is_closing() or (self._linger_s > 0 and self._closing is not None)

    def linger(self, seconds: float) -> None:
        """Let a close wait until the peer has closed too, for so long at most.

        To close before all has been read that it sends would reset the connection, and the peer
        lose our last word to that (RFC 6455, section 7.1.1; RFC 9112, section 9.6).
        """
        self._linger_s = seconds

    def close(self) -> None:
        """Close when the peer has read what is left; abort when it does not read."""
        if self._is_lost:
            return
        if self._linger_s > 0:
            self._half_close()
            return
        self.finish()
        self.inner.close()
        if self._closing is None:
            self._closing = Limit(self._loop)
        self._watch(self._closing, self._close_s, self.inner.abort)

    def close_both(self) -> None:
        """Close, as the peer has: it will say no more."""
        self._linger_s = 0.0
        self.close()

    def abort(self) -> None:
        """Close at once."""
        self.finish()
        self.inner.abort()

    # Reading

    def pause_reading(self) -> None:
        """Read nothing until told to."""
        self._is_paused = True
        self.inner.pause_reading()

    def resume_reading(self) -> None:
        """Read on, as soon as no rest is taken."""
        self._is_paused = False
        if not self.is_resting:
            self.inner.resume_reading()

    @property
    def is_resting(self) -> bool:
        """Whether a rest is taken."""
        return self._resting is not None and self._resting.counts

    def rest(self, seconds: float, then: Callable[[], None]) -> None:
        """Read nothing for a while; then do something, and read on if nobody minds."""
        self.inner.pause_reading()
        resting = self._resting = self._resting or Limit(self._loop)

        def wake() -> None:
            resting.lift()
            then()
            if not self._is_paused and not resting.counts:
                self.inner.resume_reading()

        resting.start(seconds, wake)

    # Being read

    def expect_reading(self, give_up: Callable[[], None]) -> None:
        """Note that the buffer is full; give up a peer that leaves it so."""
        self.is_full, self.takes_more = True, False
        if self._reading is None:
            self._reading = Limit(self._loop)
        self._watch(self._reading, self._read_s, give_up)

    def reads(self) -> None:
        """Note that there is room in the buffer again."""
        self.is_full, self.takes_more = False, not self._is_over
        if self._reading is not None:
            self._reading.lift()

    def lost(self) -> None:
        """Expect nothing any more."""
        self._is_lost = True
        self.finish()
        for limit in (self._reading, self._closing, self._resting):
            if limit is not None:
                limit.lift()

    def _half_close(self) -> None:
        if self._closing is not None:
            return
        self.finish()
        self.write = _unheard
        self.inner.write_eof()
        if self._resting is not None:
            self._resting.lift()
        # What comes is to be read, if only to be dropped.
        self.inner.resume_reading()
        self._closing = Limit(self._loop)
        self._closing.start(self._linger_s, self.inner.abort)

    def _watch(self, limit: "Limit", seconds: float, give_up: Callable[[], None]) -> None:
        unread = self.inner.get_write_buffer_size()

        def look() -> None:
            if self.inner.get_write_buffer_size() < unread:
                self._watch(limit, seconds, give_up)
            else:
                give_up()

        limit.start(seconds, look)


class Pace:
    """Says to a peer whose frames come too fast how long to rest, and whether to stop for good."""

    __slots__ = ("_at_once_s", "_free_at", "_owed_s", "_patience_s", "_per_s", "_rested_s")

    def __init__(self, limits: PeerLimits) -> None:
        self._per_s = limits.frames_per_s
        self._at_once_s = limits.frames_at_once / limits.frames_per_s
        self._patience_s = limits.flood_s
        self._free_at = self._owed_s = self._rested_s = 0.0

    @property
    def is_too_fast(self) -> bool:
        """Whether its rests add up to more than `flood_s`, the time between them taken off."""
        return self._rested_s > self._patience_s

    def rest_s(self, count: int, *, now: float) -> float:
        """Note that so many have come; return how long to rest, 0 if that is not too fast."""
        idle_s = max(0.0, now - self._free_at)
        owed_s = max(0.0, self._owed_s - idle_s) + count / self._per_s
        self._rested_s = max(0.0, self._rested_s - idle_s)
        if owed_s <= self._at_once_s:
            self._owed_s, self._free_at = owed_s, now
            return 0.0
        self._rested_s += owed_s
        self._owed_s, self._free_at = 0.0, now + owed_s
        return owed_s


def _unheard(data: bytes) -> None:
    """Write nothing: the peer has been told that nothing follows."""


class Limit:
    """A limit of time, which does something when it is reached."""

    __slots__ = ("_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    @property
    def counts(self) -> bool:
        """Whether it has been started, and not lifted since."""
        return self._timer is not None

    def start(self, seconds: float, reached: Callable[[], None]) -> None:
        """Begin to count, anew if it counts already."""
        self.lift()
        self._timer = self._loop.call_later(seconds, reached)

    def lift(self) -> None:
        """Count no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
