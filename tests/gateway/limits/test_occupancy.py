"""How many may be there at once, and that nothing is left of those who went."""

import sys
import tracemalloc
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.limits.occupancy import Full, Occupancy, Seat, Seats

HERE, THERE = "198.51.100.7", "203.0.113.9"


def refused(occupancy: Occupancy, address: str | None = None) -> str:
    with pytest.raises(Full) as full:
        occupancy.sit(address)
    return full.value.limit


def test_without_limits_everybody_finds_a_seat() -> None:
    occupancy = Occupancy(Seats())
    for _ in range(100):
        occupancy.sit(HERE).identify("somebody")
    assert occupancy.total == 100


def test_all_seats_may_be_taken_and_no_more() -> None:
    occupancy = Occupancy(Seats(total=2))
    first, _ = occupancy.sit(None), occupancy.sit(HERE)
    assert refused(occupancy) == "total"
    first.leave()
    occupancy.sit(THERE)


def test_an_address_has_its_seats_and_leaves_the_others_theirs() -> None:
    occupancy = Occupancy(Seats(per_address=2))
    first, _ = occupancy.sit(HERE), occupancy.sit(HERE)
    assert refused(occupancy, HERE) == "address"
    occupancy.sit(THERE)
    first.leave()
    occupancy.sit(HERE)
    assert occupancy.from_address(HERE) == 2


def test_this_machine_is_not_counted_by_address() -> None:
    occupancy = Occupancy(Seats(per_address=1))
    for _ in range(10):
        occupancy.sit(None)
    assert occupancy.total == 10
    assert occupancy.from_address(None) == 0


def test_who_has_not_said_who_they_are_have_fewer_seats() -> None:
    occupancy = Occupancy(Seats(unauthenticated=1))
    first = occupancy.sit(None)
    assert refused(occupancy) == "unauthenticated"
    first.identify("somebody")
    second = occupancy.sit(None)
    second.identify(None)
    third = occupancy.sit(None)
    assert refused(occupancy) == "unauthenticated"
    third.leave()
    assert occupancy.unauthenticated == 0


def test_somebody_has_their_seats_wherever_they_come_from() -> None:
    occupancy = Occupancy(Seats(per_principal=1))
    first, second = occupancy.sit(HERE), occupancy.sit(THERE)
    first.identify("somebody")
    with pytest.raises(Full, match="principal") as full:
        second.identify("somebody")
    assert full.value.limit == "principal"
    # All is as it was: still nobody's, and still a seat.
    assert (occupancy.total, occupancy.unauthenticated) == (2, 1)
    first.leave()
    second.identify("somebody")
    assert occupancy.by_principal("somebody") == 1


def test_those_without_a_name_are_not_counted_by_it() -> None:
    occupancy = Occupancy(Seats(per_principal=1))
    for _ in range(10):
        occupancy.sit(HERE).identify(None)
    assert (occupancy.unauthenticated, occupancy.by_principal(None)) == (0, 0)


def test_who_says_again_who_they_are_needs_no_other_seat() -> None:
    occupancy = Occupancy(Seats(per_principal=1))
    seat = occupancy.sit(HERE)
    seat.identify("somebody")
    seat.identify("somebody")
    assert occupancy.by_principal("somebody") == 1


def test_who_becomes_somebody_else_takes_the_seat_along_if_there_is_one() -> None:
    occupancy = Occupancy(Seats(per_principal=1))
    seat, other = occupancy.sit(HERE), occupancy.sit(HERE)
    seat.identify("somebody")
    other.identify("else")
    with pytest.raises(Full):
        seat.identify("else")
    assert occupancy.by_principal("somebody") == 1
    other.leave()
    seat.identify("else")
    assert (occupancy.by_principal("somebody"), occupancy.by_principal("else")) == (0, 1)


def test_leaving_twice_is_leaving_once() -> None:
    occupancy = Occupancy(Seats())
    first, second = occupancy.sit(HERE), occupancy.sit(HERE)
    first.leave()
    first.leave()
    first.identify("somebody")
    assert (occupancy.total, occupancy.unauthenticated, occupancy.from_address(HERE)) == (1, 1, 1)
    assert occupancy.by_principal("somebody") == 0
    second.leave()


def test_a_seat_is_left_however_its_context_ends() -> None:
    occupancy = Occupancy(Seats(total=1))
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), occupancy.sit(HERE):
            raise error
    assert occupancy.total == 0


def test_a_seat_is_cheap() -> None:
    occupancy = Occupancy(Seats())
    names = [(f"2001:db8:{n:x}::/64", f"somebody-{n}") for n in range(10_000)]
    tracemalloc.start()
    try:
        seats = [_seated(occupancy, *name) for name in names]
        weight, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # All from somewhere else, and each somebody else: two entries of a dictionary beside the seat.
    assert weight / len(seats) < 200
    assert sys.getsizeof(seats[0]) < 100


def _seated(occupancy: Occupancy, address: str, name: str) -> Seat:
    seat = occupancy.sit(address)
    seat.identify(name)
    return seat


# Whatever they do, in whatever order

_who = st.sampled_from([None, "a", "b", "c"])
_step = st.tuples(
    st.sampled_from(["sit", "sit", "identify", "identify", "leave"]), _who, st.integers(0, 100)
)
_limits = st.builds(Seats, *[st.integers(0, 6)] * 4)
NOBODY = "?"


class Room:
    """Who sits there, written down beside it: from where, and what they are called."""

    def __init__(self, seats: Seats) -> None:
        self.seats = seats
        self.occupancy = Occupancy(seats)
        self.there: dict[Seat, tuple[str | None, str | None]] = {}
        self.gone: list[Seat] = []

    def sit(self, address: str | None) -> None:
        try:
            seat = self.occupancy.sit(address)
        except Full as full:
            self.check_refusal(full.limit, address)
        else:
            self.there[seat] = (address, NOBODY)

    def identify(self, seat: Seat, name: str | None) -> None:
        try:
            seat.identify(name)
        except Full as full:
            self.check_refusal(full.limit, name)
        else:
            self.there[seat] = (self.there[seat][0], name)

    def leave(self, seat: Seat) -> None:
        """Leave, and let all who have left already leave again."""
        del self.there[seat]
        self.gone.append(seat)
        for left in self.gone:
            left.leave()

    def step(self, kind: str, who: str | None, which: int) -> None:
        if kind == "sit":
            self.sit(who)
        elif self.there:
            seat = list(self.there)[which % len(self.there)]
            if kind == "leave":
                self.leave(seat)
            else:
                self.identify(seat, who)

    def check_refusal(self, limit: str, who: str | None) -> None:
        """Nobody is refused while there is a seat."""
        there = self.there.values()
        count, most = {
            "total": (len(there), self.seats.total),
            "address": (sum(address == who for address, _ in there), self.seats.per_address),
            "unauthenticated": (self.unauthenticated, self.seats.unauthenticated),
            "principal": (sum(name == who for _, name in there), self.seats.per_principal),
        }[limit]
        assert 0 < most == count

    def check(self) -> None:
        addresses = Counter(address for address, _ in self.there.values() if address)
        names = Counter(name for _, name in self.there.values() if name not in (None, NOBODY))
        assert self.occupancy.total == len(self.there)
        assert self.occupancy.unauthenticated == self.unauthenticated
        assert self.occupancy._addresses == addresses
        assert self.occupancy._principals == names
        for count, most in (
            (len(self.there), self.seats.total),
            (self.unauthenticated, self.seats.unauthenticated),
            (max(addresses.values(), default=0), self.seats.per_address),
            (max(names.values(), default=0), self.seats.per_principal),
        ):
            assert most == 0 or count <= most

    @property
    def unauthenticated(self) -> int:
        return sum(name == NOBODY for _, name in self.there.values())


@settings(deadline=None)
@given(_limits, st.lists(_step, max_size=60))
def test_it_counts_who_is_there_and_forgets_who_is_not(
    seats: Seats, steps: list[tuple[str, str | None, int]]
) -> None:
    room = Room(seats)
    for step in steps:
        room.step(*step)
        room.check()
    for seat in list(room.there):
        room.leave(seat)
    room.check()
    assert room.occupancy._addresses == room.occupancy._principals == {}
