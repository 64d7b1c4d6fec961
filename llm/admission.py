"""What is asked of a queue in front of a model server, be it one process's or a deployment's."""

import math
from collections.abc import Callable
from typing import Protocol

MOVES_EVERY_S = 1.0
"""How often at most who waits is told that it has moved."""

WEIGHT_OF_NEWEST = 0.2
"""How much the last call counts in what a call typically takes."""

Moved = Callable[[int, int | None], None]
"""Told a place's position (1 is next) and an estimate of the wait in milliseconds."""


class QueueFull(Exception):
    """As many are waiting as may wait; `retry_after_ms` estimates when one of them is served."""

    def __init__(self, *, waiting: int, retry_after_ms: int | None) -> None:
        self.waiting = waiting
        self.retry_after_ms = retry_after_ms
        super().__init__(f"{waiting} are waiting already")


class Place(Protocol):
    """One call's place: in the queue at first or admitted at once, released at the end."""

    released: bool

    @property
    def waits(self) -> bool:
        """Whether the call has to wait still."""

    async def admitted(self, moved: Moved) -> None:
        """Wait for admission; `moved` is told the position, at most once a second.

        Cancelling leaves the place as it is: release it.
        """

    def call(self) -> None:
        """Note that the model server is called now: how long that takes teaches the estimate."""

    def release(self, *, cool_down_s: float = 0.0) -> None:
        """Give the place to whoever is next; `cool_down_s` later if the server is still at work.

        Releasing twice is releasing once.
        """


class Admission(Protocol):
    """First come, first served: how many calls run at once, and who is next."""

    @property
    def ready(self) -> bool:
        """Whether places can be reserved at all."""

    @property
    def calls(self) -> int:
        """How many calls the model server is busy with, those that cool down included."""

    @property
    def waiting(self) -> int:
        """How many calls wait."""

    async def reserve(self, *, even_if_full: bool = False) -> Place:
        """Take a place, without waiting for admission; raises `QueueFull` and `BrokerAway`."""


class Estimate:
    """How long a wait takes, learnt from how long calls took; a moving average."""

    def __init__(self, max_calls: int) -> None:
        self._max_calls = max_calls
        self.typical_s: float | None = None
        """What a call takes; None as long as nothing was learnt."""

    def learn(self, took_s: float) -> None:
        """Note how long a call took, in seconds."""
        if self.typical_s is None:
            self.typical_s = took_s
        else:
            self.typical_s += WEIGHT_OF_NEWEST * (took_s - self.typical_s)

    def eta_ms(self, position: int) -> int | None:
        """Tell the wait at a position, 1 being next; None as long as nothing was learnt."""
        if self.typical_s is None:
            return None
        return math.ceil(self.typical_s * 1000 * position / self._max_calls)


class Told:
    """What one who waits has been told of its position: each change, but not too often."""

    __slots__ = ("_at", "_moved", "_position")

    def __init__(self, moved: Moved) -> None:
        self._moved = moved
        self._position = 0
        self._at = -math.inf

    def tell(self, position: int, eta_ms: int | None, *, now: float, every_s: float) -> bool:
        """Tell a change of position; False if it is too early to, by `now` in seconds."""
        if position == self._position:
            return True
        if now - self._at < every_s:
            return False
        self._position, self._at = position, now
        self._moved(position, eta_ms)
        return True
