"""How somebody outside learns how commits go."""

from typing import Protocol


class Committed(Protocol):
    """Told of each commit when it is over, in the loop and at once; may neither wait nor raise.

    It took `seconds` from when the database was asked; of its `writes` so many `failed`.
    """

    def __call__(self, seconds: float, *, writes: int, failed: int) -> None: ...


def unwatched(seconds: float, *, writes: int, failed: int) -> None:
    """Nobody wants to know."""
