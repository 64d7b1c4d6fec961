"""Transports that do not wait for ever for their peers."""

import asyncio
from collections.abc import Callable
from typing import Any


class BoundedTransport:
    """A transport that waits for a peer that reads, however slowly, and for no other.

    While its buffer is full, or it is being closed, the peer has to read something at least every
    `read_s` or `close_s` seconds.
    """

    __slots__ = (
        *("inner", "is_full", "takes_more", "write"),
        *("_loop", "_read_s", "_close_s", "_reading", "_closing", "_is_lost", "_is_over"),
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
        self._is_lost = False
        self._is_over = False
        # Not left to `__getattr__`, which is slow: it is used for every token.
        self.write = inner.write

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def finish(self) -> None:
        """Note that the last word has been written."""
        self._is_over, self.takes_more = True, False

    def close(self) -> None:
        """Close when the peer has read what is left; abort when it does not read."""
        if self._is_lost:
            return
        self.finish()
        self.inner.close()
        if self._closing is None:
            self._closing = Limit(self._loop)
        self._watch(self._closing, self._close_s, self.inner.abort)

    def abort(self) -> None:
        """Close at once."""
        self.finish()
        self.inner.abort()

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
        for limit in (self._reading, self._closing):
            if limit is not None:
                limit.lift()

    def _watch(self, limit: "Limit", seconds: float, give_up: Callable[[], None]) -> None:
        unread = self.inner.get_write_buffer_size()

        def look() -> None:
            if self.inner.get_write_buffer_size() < unread:
                self._watch(limit, seconds, give_up)
            else:
                give_up()

        limit.start(seconds, look)


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
