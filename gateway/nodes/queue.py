"""The queue that all nodes share."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.nodes.link import Link
from llm.queue import Queue as SharedQueue

__all__ = ["SharedQueue", "open_shared_queue"]


@asynccontextmanager
async def open_shared_queue(
    link: Link, *, max_calls: int, max_waiting: int
) -> AsyncIterator[SharedQueue]:
    """Not shared yet."""
    yield SharedQueue(max_calls=max_calls, max_waiting=max_waiting)
