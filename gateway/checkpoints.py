"""When the text of open turns is kept in storage, so that a crash loses little of it."""

import asyncio
from collections.abc import Callable

Keep = Callable[[], None]
"""Keeps the text of one turn, at once and without waiting."""


class Checkpoints:
    """One timer for all open turns: each is told to keep its text in time.

    All that ask within `every_s` seconds are told in the same step, so that what they write shares
    a commit: with hundreds of turns a timer each would mean hundreds of commits.
    """

    def __init__(self, *, every_s: float) -> None:
        self._every_s = every_s
        self._asked: dict[Keep, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, keep: Keep) -> None:
        """Call `keep` once, within `every_s` seconds from now."""
        self._asked[keep] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._every_s, self._tell)

    def forget(self, keep: Keep) -> None:
        """Do not call `keep` after all, if it was to be called."""
        self._asked.pop(keep, None)

    def _tell(self) -> None:
        asked, self._asked, self._timer = self._asked, {}, None
        for keep in asked:
            keep()
