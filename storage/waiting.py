"""Those who wait for an operation."""

import asyncio
from typing import Any

MAX_WAITING = 16_384
CLOSED = "the database is closed"


def settle(future: asyncio.Future[Any], outcome: Any) -> None:
    """Tell whoever waits how an operation went: its result, or the exception it raises there."""
    if future.done():  # whoever asked has gone
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
        # Marks it as seen: asyncio would log it as never retrieved where nobody waits.
        future.exception()
    else:
        future.set_result(outcome)
