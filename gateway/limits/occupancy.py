"""How many connections are open: in all, by whom, from where, and how many are nobody's yet.

Counted in each process for itself; WebSockets and event streams alike have a seat.
"""

from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

Crowd = Literal["total", "address", "unauthenticated", "principal"]


@dataclass(frozen=True)
class Seats:
    """How many there are of each kind; 0 is no limit."""

    total: int = 0
    per_address: int = 0
    per_principal: int = 0
    unauthenticated: int = 0


class Full(Exception):
    """There is no seat left; `limit` says of which kind."""

    def __init__(self, limit: Crowd) -> None:
        self.limit = limit
        super().__init__(f"no seat is left: {limit}")


class Occupancy:
    """Who sits where. For one event loop: nothing here waits."""

    def __init__(self, seats: Seats) -> None:
        self._seats = seats
        self._addresses: dict[str, int] = {}
        self._principals: dict[str, int] = {}
        self.total = 0
        """How many seats are taken."""
        self.unauthenticated = 0
        """How many of them by those who have not said who they are."""

    def sit(self, address: str | None) -> "Seat":
        """Take a seat, to be left whatever happens; None is an address that is not counted.

        Raises `Full`: "total", "address" or "unauthenticated".
        """
        self._check_room(address)
        if _is_full(self.unauthenticated, self._seats.unauthenticated):
            raise Full("unauthenticated")
        return self._seat(address)

    def sit_as(self, name: str | None, address: str | None) -> "Seat":
        """Take a seat as somebody known, whom those who are not keep from none.

        Raises `Full`: "total", "address" or "principal".
        """
        self._check_room(address)
        seat = self._seat(address)
        try:
            seat.identify(name)
        except Full:
            seat.leave()
            raise
        return seat

    def from_address(self, address: str | None) -> int:
        """Count the seats that are taken from an address."""
        return 0 if address is None else self._addresses.get(address, 0)

    def by_principal(self, name: str | None) -> int:
        """Count the seats that somebody has taken."""
        return 0 if name is None else self._principals.get(name, 0)

    def _check_room(self, address: str | None) -> None:
        if _is_full(self.total, self._seats.total):
            raise Full("total")
        if _is_full(self.from_address(address), self._seats.per_address):
            raise Full("address")

    def _seat(self, address: str | None) -> "Seat":
        self.total += 1
        self.unauthenticated += 1
        _add(self._addresses, address)
        return Seat(self, address)

    def _admit(self, name: str | None) -> None:
        if _is_full(self.by_principal(name), self._seats.per_principal):
            raise Full("principal")
        _add(self._principals, name)


class Seat:
    """One connection's. Made by an `Occupancy`; left at the end of its context, or by `leave`."""

    __slots__ = ("_address", "_is_known", "_is_left", "_name", "_occupancy")

    def __init__(self, occupancy: Occupancy, address: str | None) -> None:
        self._occupancy = occupancy
        self._address = address
        self._name: str | None = None
        self._is_known = False
        self._is_left = False

    def identify(self, principal_name: str | None) -> None:
        """Say whose seat it is, now or anew; None is somebody who has no name, and not counted.

        Raises `Full`, "principal": then all is as it was. Of a seat that was left nothing is said
        any more.
        """
        if self._is_left:
            return
        if not self._is_known or principal_name != self._name:
            self._occupancy._admit(principal_name)
            self._stand_up()
            self._name, self._is_known = principal_name, True

    def leave(self) -> None:
        """Give the seat back; twice is once."""
        if not self._is_left:
            self._is_left = True
            self._stand_up()
            self._occupancy.total -= 1
            _take(self._occupancy._addresses, self._address)

    def _stand_up(self) -> None:
        """Be neither somebody's nor nobody's any more."""
        if self._is_known:
            _take(self._occupancy._principals, self._name)
        else:
            self._occupancy.unauthenticated -= 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave()


def _is_full(count: int, limit: int) -> bool:
    return 0 < limit <= count


def _add(counts: dict[str, int], key: str | None) -> None:
    if key is not None:
        counts[key] = counts.get(key, 0) + 1


def _take(counts: dict[str, int], key: str | None) -> None:
    if key is None:
        return
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
