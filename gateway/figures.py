"""What a gateway counts of itself, as plain numbers. Pure, and cheap enough for every token."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

from llm.client import UpstreamError

QUEUE_S = (0.005, 0.05, 0.25, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0)
"""From a place that was free to a long line in front of a model that takes one call at a time."""

FIRST_TOKEN_S = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0, 30.0, 60.0, 120.0)
"""What people notice begins at 0.1 s; `LLM_FIRST_TOKEN_TIMEOUT_S` is 120 by default."""

GAP_S = (0.001, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0, 120.0)
"""Around the tens of milliseconds that a model takes for a token, then what reads as a pause."""

TURN_S = (0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 600.0, 1_800.0)
"""A few words to `TURN_TIMEOUT_S`, 600 by default, after a wait."""

COMMIT_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
"""One fsync of a good disk to a database that is in trouble."""

BATCH_WRITES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
"""Writes that became durable together, 256 at most."""


class Spread:
    """How many values lay between which bounds, and their sum; a bound belongs to what is below.

    >>> waits = Spread((0.1, 1.0))
    >>> waits.note(0.1), waits.note(7.0)
    (None, None)
    >>> waits.counts, waits.total
    ([1, 0, 1], 7.1)
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def note(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Sent:
    """What went out to clients of one kind; a slot each, for it is counted with every frame."""

    __slots__ = ("frames", "size")

    def __init__(self) -> None:
        self.frames = 0
        self.size = 0
        """In bytes, as encoded for this transport."""


class Figures:
    """All that is counted while a gateway runs; what can be looked up at any time is not here.

    Each is changed in the one loop of the gateway, and read there.
    """

    __slots__ = (
        *("turns", "attempts", "queue_s", "first_token_s", "gap_s", "turn_s"),
        *("upstream_errors", "resumes", "live_tokens", "merged_tokens", "websocket", "sse"),
        *("received", "streams", "refusals", "requests", "sessions", "auth_failures"),
        *("commit_s", "commit_writes", "failed_writes"),
    )

    def __init__(self) -> None:
        self.turns: Counter[str] = Counter()
        """By outcome: a finish reason, an error code, or why it was let go of."""
        self.attempts = 0
        self.queue_s = Spread(QUEUE_S)
        self.first_token_s = Spread(FIRST_TOKEN_S)
        self.gap_s = Spread(GAP_S)
        self.turn_s = Spread(TURN_S)
        self.upstream_errors: Counter[type[UpstreamError]] = Counter()
        self.resumes: Counter[bool] = Counter()
        """By whether the cursor was honoured."""
        self.live_tokens = 0
        self.merged_tokens = 0
        self.websocket = Sent()
        self.sse = Sent()
        self.received = 0
        self.streams = 0
        """Event streams that are open."""
        self.refusals: Counter[str] = Counter()
        self.requests: Counter[tuple[str, str, int]] = Counter()
        """By method, route and status."""
        self.sessions = 0
        self.auth_failures = 0
        self.commit_s = Spread(COMMIT_S)
        self.commit_writes = Spread(BATCH_WRITES)
        self.failed_writes = 0

    def call_failed(self, error: UpstreamError) -> None:
        """Count a call of the model server that failed."""
        self.upstream_errors[type(error)] += 1

    def committed(self, seconds: float, *, writes: int, failed: int) -> None:
        """Count a commit: how long it took, of how many writes, and how many of them failed."""
        self.commit_s.note(seconds)
        self.commit_writes.note(writes)
        self.failed_writes += failed
