"""What a connection waits by, made for one that hardly ever has to.

An idle connection has four of asyncio's queues of waiters, in one queue and two events, and each
weighs 0.7 KB while it is empty.
"""

import asyncio
import math
from typing import Generic, TypeVar

T = TypeVar("T")

STEP_S = 0.1
"""At 10,000 connections some 40 come together, for a millisecond: nobody notices."""


class Gate:
    """Stands in for an `asyncio.Event` that is nearly always set; it begins so."""

    __slots__ = ("_opened",)

    def __init__(self) -> None:
        self._opened: asyncio.Event | None = None

    def is_set(self) -> bool:
        """Whether nobody has to wait."""
        return self._opened is None

    def clear(self) -> None:
        """Let everybody wait."""
        if self._opened is None:
            self._opened = asyncio.Event()

    def set(self) -> None:
        """Let nobody wait any longer."""
        if self._opened is not None:
            self._opened.set()
            self._opened = None

    async def wait(self) -> None:
        """Return at once if it is set, else once it has been."""
        if self._opened is not None:
            await self._opened.wait()


class Mailbox(Generic[T]):
    """Stands in for an `asyncio.Queue` that one task at most takes from, and that is unbounded."""

    __slots__ = ("_came", "_items")

    def __init__(self) -> None:
        self._items: list[T] = []
        self._came: asyncio.Future[None] | None = None

    def empty(self) -> bool:
        """Whether there is nothing to take."""
        return not self._items

    def put_nowait(self, item: T) -> None:
        """Add an item."""
        self._items.append(item)
        if self._came is not None and not self._came.done():
            self._came.set_result(None)

    async def get(self) -> T:
        """Take the oldest item, waiting for one; cancelled, it takes none."""
        while not self._items:
            self._came = asyncio.get_running_loop().create_future()
            try:
                await self._came
            finally:
                self._came = None
        return self._items.pop(0)


def in_company(loop: asyncio.AbstractEventLoop, seconds: float) -> float:
    """Lengthen a delay, by `STEP_S` at most, so that it ends when others do.

    To wake up costs as much as what there is to do then for an idle connection.
    """
    now = loop.time()
    return math.ceil((now + seconds) / STEP_S) * STEP_S - now


async def heard(news: asyncio.Event, within_s: float) -> bool:
    """Wait until an event is set; False if that takes too long."""
    try:
        async with asyncio.timeout(within_s):
            return await news.wait()
    except TimeoutError:
        return False
