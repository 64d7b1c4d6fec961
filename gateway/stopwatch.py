"""How long the stages of a turn take."""

import time

from protocol.server_frames import Timing


class Stopwatch:
    """Measures the stages of a turn, by a clock that never jumps."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._admitted: float | None = None
        self._first_text: float | None = None

    def admit(self) -> None:
        """Note that the model is being called."""
        self._admitted = time.monotonic()

    def text(self) -> None:
        """Note that there is text; the first time counts."""
        if self._first_text is None:
            self._first_text = time.monotonic()

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
