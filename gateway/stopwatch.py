"""How long the stages of a turn take."""

import time

from gateway.figures import Figures
from protocol.server_frames import Timing


class Stopwatch:
    """Measures the stages of a turn, by a clock that never jumps."""

    __slots__ = ("_admitted", "_begun", "_figures", "_first_text", "_gap", "_newest_text")

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self._begun = time.monotonic()
        self._admitted: float | None = None
        self._first_text: float | None = None
        self._newest_text = 0.0
        self._gap = figures.gap_s.note

    def admit(self) -> None:
        """Note that the model is being called."""
        self._admitted = time.monotonic()
        self._figures.queue_s.note(self._admitted - self._begun)

    def text(self) -> None:
        """Note that there is another piece of text."""
        now = time.monotonic()
        if self._first_text is None:
            self._first_text = now
            if self._admitted is not None:
                self._figures.first_token_s.note(now - self._admitted)
        else:
            self._gap(now - self._newest_text)
        self._newest_text = now

    def end(self) -> None:
        """Note that the turn has ended, and that is stored."""
        self._figures.turn_s.note(time.monotonic() - self._begun)

    def timing(self) -> Timing:
        """Tell the times so far, in milliseconds."""
        now = time.monotonic()
        admitted = now if self._admitted is None else self._admitted
        first_text = None
        if self._first_text is not None:
            first_text = round((self._first_text - admitted) * 1000)
        return Timing(
            queue_ms=round((admitted - self._begun) * 1000),
            first_token_ms=first_text,
            duration_ms=round((now - self._begun) * 1000),
        )
