"""Admission: how many calls run at once, who is next, where everybody else stands.

First come, first served. A session has at most one open turn, so it cannot stand in the queue
twice: whoever was served goes behind everybody who waits, and the queue is fair between sessions.
"""

import asyncio
from collections import deque

from llm.admission import MOVES_EVERY_S, Estimate, Moved, QueueFull, Told


class Place:
    """One call's place: in the queue at first or admitted at once, released at the end."""

    def __init__(self, queue: "Queue") -> None:
        self._queue = queue
        self._admitted = asyncio.get_running_loop().create_future()
        self._told: Told | None = None
        self._since = 0.0
        self._called = False
        self.released = False

    @property
    def waits(self) -> bool:
        """Whether the call has to wait still."""
        return not self._admitted.done()

    async def admitted(self, moved: Moved) -> None:
        """Wait for admission; `moved` is told the position, at most once a second.

        Cancelling leaves the place as it is: release it.
        """
        if self.waits:
            self._told = Told(moved)
            self._tell(*self._queue.standing(self))
            await asyncio.shield(self._admitted)

    def call(self) -> None:
        """Note that the model server is called now: how long that takes teaches the estimate."""
        self._since = _now()
        self._called = True

    def release(self, *, cool_down_s: float = 0.0) -> None:
        """Give the place to whoever is next; `cool_down_s` later if the server is still at work.

        Releasing twice is releasing once.
        """
        if not self.released:
            self.released = True
            self._queue._release(self, cool_down_s)

    def _admit(self) -> None:
        self._admitted.set_result(None)

    def _tell(self, position: int, eta_ms: int | None) -> bool:
        """Tell a change of position; False if it is too early to tell."""
        if self._told is None:
            return True
        return self._told.tell(position, eta_ms, now=_now(), every_s=MOVES_EVERY_S)


class Queue:
    """The queue in front of one model server."""

    ready = True

    def __init__(self, *, max_calls: int, max_waiting: int) -> None:
        self._max_calls = max_calls
        self._max_waiting = max_waiting
        self._calls = 0
        self._queue: deque[Place] = deque()
        self._estimate = Estimate(max_calls)
        self._tick: asyncio.TimerHandle | None = None

    @property
    def calls(self) -> int:
        """How many calls the model server is busy with, those that cool down included."""
        return self._calls

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return len(self._queue)

    async def reserve(self, *, even_if_full: bool = False) -> Place:
        """Take a place at once, without waiting; raises `QueueFull`."""
        place = Place(self)
        if self._calls < self._max_calls:
            self._admit(place)
        elif even_if_full or len(self._queue) < self._max_waiting:
            self._queue.append(place)
        else:
            raise QueueFull(waiting=len(self._queue), retry_after_ms=self._estimate.eta_ms(1))
        return place

    def standing(self, place: Place) -> tuple[int, int | None]:
        """Tell a waiting place's position and estimate."""
        position = self._queue.index(place) + 1
        return position, self._estimate.eta_ms(position)

    def _admit(self, place: Place) -> None:
        self._calls += 1
        place._admit()

    def _release(self, place: Place, cool_down_s: float) -> None:
        if place.waits:
            self._queue.remove(place)
            self._positions_changed()
        elif cool_down_s > 0:
            asyncio.get_running_loop().call_later(cool_down_s, self._free, place)
        else:
            self._free(place)

    def _free(self, place: Place) -> None:
        self._calls -= 1
        if place._called:
            self._estimate.learn(_now() - place._since)
        while self._queue and self._calls < self._max_calls:
            self._admit(self._queue.popleft())
            self._positions_changed()

    def _positions_changed(self) -> None:
        # One timer for all: with a long queue every release moves everybody.
        if self._queue and self._tick is None:
            self._tick = asyncio.get_running_loop().call_later(MOVES_EVERY_S, self._tell_all)

    def _tell_all(self) -> None:
        self._tick = None
        told = [
            place._tell(position, self._estimate.eta_ms(position))
            for position, place in enumerate(self._queue, start=1)
        ]
        if not all(told):
            self._positions_changed()


def _now() -> float:
    return asyncio.get_running_loop().time()
