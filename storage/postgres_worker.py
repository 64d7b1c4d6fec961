"""A task's own connection to PostgreSQL, opened when there is need of it, and again when lost."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from storage.operations import Operation
from storage.postgres_connection import NotBegun, PostgresConnection

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 1.0


@dataclass(frozen=True)
class Patience:
    """How long things may take."""

    connect_s: float = 3.0
    """To open a connection, or to begin on one: more, and it leads nowhere."""
    wait_s: float = 5.0
    """For a connection to take an operation up."""
    operation_s: float = 10.0
    """For all of an operation; the server bounds each of its statements more narrowly."""
    close_s: float = 5.0
    """To finish what was queued when all is over."""


@dataclass(eq=False, slots=True)
class Job:
    """An operation, the statement that begins its transaction, and who waits for it."""

    operation: Operation[Any]
    begin: str
    future: asyncio.Future[Any]
    queued_at: float


class Worker:
    """A connection of a pool, for the one task that uses it.

    `of_pool` is what `databases` calls `connection`.
    """

    def __init__(self, of_pool: Callable[[], Any]) -> None:
        self.wake = asyncio.Event()
        self.busy_since: float | None = None
        self._of_pool = of_pool
        self._entered: Any = None
        self._connection: PostgresConnection | None = None
        self._pause_s = 0.0

    @property
    def connected(self) -> bool:
        """Whether the connection stands, as far as is known."""
        return self._connection is not None and not self._connection.closed

    async def connect(self) -> None:
        """Open a connection, after a pause if the one before was of no use.

        Raises whatever the driver raises.
        """
        await self.disconnect()
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s or FIRST_PAUSE_S, LONGEST_PAUSE_S)
        # Of this very task: `databases` keeps one for each.
        entered = self._of_pool()
        await entered.__aenter__()
        self._entered = entered
        self._connection = PostgresConnection(entered.raw_connection)

    async def disconnect(self) -> None:
        """Close the connection, without waiting for a server that may not answer."""
        entered, self._entered = self._entered, None
        if self._connection is not None:
            self._connection.give_up()
            self._connection = None
        if entered is not None:
            with suppress(Exception):  # it was lost
                await entered.__aexit__()

    async def run(self, job: Job, patience: Patience) -> Any:
        """Run an operation; return its result, or the exception that its caller gets.

        Raises `NotBegun`: it may be run on another connection.
        """
        assert self._connection is not None, "run on a connection"  # noqa: S101
        self.busy_since = time.monotonic()
        try:
            outcome = await self._connection.run(
                job.operation,
                begin=job.begin,
                begin_within_s=patience.connect_s,
                within_s=patience.operation_s,
            )
        except NotBegun:
            raise
        except Exception as error:  # it belongs to the one who asked
            outcome = error
        finally:
            self.busy_since = None
        self._pause_s = 0.0
        return outcome
