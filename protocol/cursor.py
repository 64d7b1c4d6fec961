"""A cursor is a place in a session's log: `7.1.57`, `7.1.end`, `0.0.end`."""

import re
from typing import NamedTuple, Self

END = 2**53
"""The offset behind everything a turn can say; it sorts after every real offset."""

PATTERN = r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,14}|end)"
_FORM = re.compile(PATTERN, re.ASCII)


class Cursor(NamedTuple):
    """Turn, attempt and offset, ordered in that order.

    `offset` counts Unicode code points of the reply that lie before this place, or is `END`.
    """

    turn: int
    attempt: int
    offset: int

    def __str__(self) -> str:
        return f"{self.turn}.{self.attempt}.{'end' if self.offset == END else self.offset}"

    @property
    def ended(self) -> bool:
        """Whether the turn is over at this place, so that the next turn's `start` comes next."""
        return self.offset == END

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read a cursor as a client hands it back; None where it is not one."""
        if not (match := _FORM.fullmatch(text)):
            return None
        turn, attempt, offset = match.groups()
        return cls(int(turn), int(attempt), END if offset == "end" else int(offset))


BEGINNING = Cursor(0, 0, END)
