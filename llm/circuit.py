"""A circuit breaker: after repeated failure calls are refused at once instead of tried in vain."""

import time
from collections.abc import Callable


class CircuitOpen(Exception):
    """The model server has failed too often; `retry_after_ms` is when it is tried again."""

    def __init__(self, *, retry_after_ms: int) -> None:
        self.retry_after_ms = retry_after_ms
        super().__init__(f"not called for another {retry_after_ms} ms")


class Circuit:
    """Counts failures in a row; open once there were `max_failures`.

    An open circuit lets one call through when it has rested for `rest_s`, or as soon as somebody
    sees the server well again. That call decides: it closes the circuit or opens it anew. Where
    there are several servers it is not open as long as one `answers`, whatever has failed.
    """

    def __init__(
        self,
        *,
        max_failures: int = 5,
        rest_s: float = 10.0,
        answers: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_failures = max_failures
        self._rest_s = rest_s
        self._answers = answers
        self._clock = clock
        self._failures = 0
        self._rests_until = 0.0

    @property
    def open(self) -> bool:
        """Whether calls are refused, but for one now and then."""
        return self._failures >= self._max_failures and not self._answers()

    def check(self) -> None:
        """Let a call through, or raise `CircuitOpen`."""
        if not self.open:
            return
        left_s = self._rests_until - self._clock()
        if left_s > 0:
            raise CircuitOpen(retry_after_ms=round(left_s * 1000) + 1)
        # This one is the trial; the next may follow when it has had its time.
        self._rests_until = self._clock() + self._rest_s

    def not_called(self) -> None:
        """Note that the call that was let through is not made: another may take its place."""
        if self.open:
            self._rests_until = self._clock()

    def failed(self) -> None:
        """Note that a call could not be answered."""
        self._failures += 1
        self._rests_until = self._clock() + self._rest_s

    def succeeded(self) -> None:
        """Note that a call was answered."""
        self._failures = 0

    def seen_well(self) -> None:
        """Note that the server says it is well: the next call may try."""
        self._rests_until = min(self._rests_until, self._clock())
