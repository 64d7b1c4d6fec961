"""A task that is there only while there is something for it to do."""

import asyncio
from collections.abc import Coroutine


class Errand:
    """At most one task at a time, which belongs to whoever made this.

    Begun from a callback of the loop as well as from a task; a task group of anyio cannot do that,
    and weighs more than the rest of an idle connection.
    """

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def begin(self, run: Coroutine[object, object, None]) -> None:
        """Begin to run; the last run must be at its end."""
        self._task = asyncio.get_running_loop().create_task(run)

    async def cancel(self) -> None:
        """Stop running, and wait for the end of it; raises what a run failed with."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
