"""When the text of open turns is kept in storage, so that a crash loses little of it."""

import asyncio
from collections.abc import Callable

Keep = Callable[[], None]
"""Keeps the text of one turn, at once and without waiting."""


class Checkpoints:
    """One timer for all open turns: each is told to keep its text in time.

    Those whose time comes within a tenth of `every_s` are told in the same step, so that what they
    write shares a commit: with hundreds of turns a timer each would mean hundreds of commits.
    """

    def __init__(self, *, every_s: float) -> None:
        self._every_s = every_s
        self._due: dict[Keep, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, keep: Keep) -> None:
        """Call `keep` once, within `every_s` seconds from now."""
        loop = asyncio.get_running_loop()
        self._due[keep] = loop.time() + self._every_s
        if self._timer is None:
            self._timer = loop.call_later(self._every_s, self._tell)

    def forget(self, keep: Keep) -> None:
        """Do not call `keep` after all, if it was to be called."""
        self._due.pop(keep, None)

    def _tell(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        soon = loop.time() + self._every_s / 10
        # In the order of their times, since all wait for as long.
        told = [keep for keep, due in self._due.items() if due <= soon]
        for keep in told:
            del self._due[keep]
            keep()
        if self._due:
            self._timer = loop.call_at(next(iter(self._due.values())), self._tell)
