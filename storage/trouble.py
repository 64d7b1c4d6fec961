"""Whether a database gives reason to doubt it."""

import math
import time

SLOW_COMMIT_S = 0.5
TROUBLE_LASTS_S = 2.0


class Trouble:
    """Remembers how the last commits went."""

    def __init__(self) -> None:
        self._failed = False
        self._failed_at = -math.inf

    def note(self, *, failed: bool) -> None:
        """Note how a commit went."""
        self._failed = failed
        if failed:
            self._failed_at = time.monotonic()

    def seen(self, since: float | None) -> bool:
        """Whether the last commit failed, or one did lately, or one takes suspiciously long.

        `since` is when the oldest of those under way was begun, by the monotonic clock. Lately,
        because on a full disk a small commit may find a little room between large ones.
        """
        now = time.monotonic()
        slow = since is not None and now - since > SLOW_COMMIT_S
        return slow or self._failed or now - self._failed_at < TROUBLE_LASTS_S
