"""A database of PostgreSQL: a few connections that work off one queue of operations.

`databases` opens and closes the connections. Its own calls are not used: they compile each
statement anew, and whoever is cancelled in one of its transactions leaves the connection behind in
it. Here nobody waits on a connection but the worker that keeps it, and nobody cancels that.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import anyio
import databases

from storage.operations import MaybeStored, Operation, StorageError
from storage.postgres_connection import READ, SETTINGS, WRITE, NotBegun, check, reason
from storage.postgres_worker import Job, Patience, Worker
from storage.trouble import Trouble
from storage.waiting import CLOSED, MAX_WAITING, settle
from storage.watching import Committed, unwatched

log = logging.getLogger(__name__)
T = TypeVar("T")

CONNECTIONS = 10
PATIENCE = Patience()
_CACHED_STATEMENTS = 256


class PostgresDatabase:
    """Runs operations on the connections of a pool; made by `open_postgres`. A `Database`.

    They are taken up in the order they were asked for, but several run at once: whoever wants one
    to see what another did waits for that first.
    """

    def __init__(
        self, *, max_waiting: int, patience: Patience, committed: Committed = unwatched
    ) -> None:
        self._max_waiting = max_waiting
        self._committed = committed
        self._patience = patience
        self._jobs: deque[Job] = deque()
        self._workers: list[Worker] = []
        self._resting: list[Worker] = []
        self._expiry: asyncio.TimerHandle | None = None
        self._closing = False
        self._trouble = Trouble()
        self._away: str | None = None
        self._told_few = False

    @property
    def in_trouble(self) -> bool:
        """Whether the database gives reason to doubt it."""
        busy = (worker.busy_since for worker in self._workers)
        return self._trouble.seen(min((since for since in busy if since is not None), default=None))

    async def write(self, operation: Operation[T]) -> T:
        """Run an operation and commit it, durably, before returning its result."""
        return await self._queue(operation, WRITE)

    def submit(self, operation: Operation[T]) -> asyncio.Future[T]:
        """Queue a write without waiting for it; the future resolves when it is committed."""
        return self._queue(operation, WRITE)

    async def read(self, operation: Operation[T]) -> T:
        """Run an operation that only selects, on one snapshot of the database."""
        return await self._queue(operation, READ)

    # The queue

    def _queue(self, operation: Operation[T], begin: str) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if self._closing or len(self._jobs) >= self._max_waiting:
            operation.close()
            why = CLOSED if self._closing else "too many operations are waiting"
            settle(future, StorageError(why))
        else:
            self._jobs.append(Job(operation, begin, future, loop.time()))
            self._wake_one()
            self._watch()
        return future

    def _put_back(self, job: Job) -> None:
        self._jobs.appendleft(job)
        if self._expiry is not None:  # it waits for a job behind this one
            self._expiry.cancel()
            self._expiry = None
        self._watch()

    def _watch(self) -> None:
        if self._expiry is None and self._jobs:
            at = self._jobs[0].queued_at + self._patience.wait_s
            self._expiry = asyncio.get_running_loop().call_at(at, self._expire)

    def _expire(self) -> None:
        """Fail what has waited too long; nothing bounds how long the server is away."""
        self._expiry = None
        late = asyncio.get_running_loop().time() - self._patience.wait_s
        why = self._away or "every connection was busy"
        if failed := self._drop(f"not begun within {self._patience.wait_s:g} s: {why}", upto=late):
            self._trouble.note(failed=True)
            log.error("%d operations failed: %s", failed, why)
        self._watch()

    def _drop(self, why: str, *, upto: float) -> int:
        """Fail the jobs that were queued up to a moment; return how many."""
        count = 0
        while self._jobs and self._jobs[0].queued_at <= upto:
            job = self._jobs.popleft()
            job.operation.close()
            settle(job.future, StorageError(why))
            count += 1
        return count

    # The workers

    def _wake_one(self, *, spare: bool = True) -> None:
        """Wake a worker that has a connection, or, if it may be a `spare` one, has none yet."""
        # The one that rested last: few are kept busy, and the others need no connection.
        connected = [worker for worker in self._resting if worker.connected]
        candidates = connected or (self._resting if spare else [])
        if candidates:
            worker = candidates[-1]
            self._resting.remove(worker)
            worker.wake.set()

    async def _work(self, worker: Worker) -> None:
        self._workers.append(worker)
        try:
            while self._jobs or not self._closing:
                if not self._jobs:
                    await self._rest(worker)
                elif worker.connected:
                    await self._run(worker, self._jobs.popleft())
                else:
                    await self._connect(worker)
        finally:
            self._workers.remove(worker)
            if not self._workers:
                # However the last one comes to its end, nobody waits for it for ever.
                self._closing = True
                self._drop(CLOSED, upto=float("inf"))
            await worker.disconnect()

    async def _rest(self, worker: Worker) -> None:
        worker.wake.clear()
        self._resting.append(worker)
        await worker.wake.wait()

    async def _connect(self, worker: Worker) -> None:
        # Whoever still has a connection takes over the job that this one was woken for.
        self._wake_one(spare=False)
        try:
            await worker.connect()
        except Exception as error:  # until there is a way
            if any(other.connected for other in self._workers):
                # There are no more to be had, and the work is done all the same.
                self._note_few(reason(error))
                return
            self._trouble.note(failed=True)
            if self._away is None:
                log.error("the database is away: %s", reason(error))
            self._away = reason(error)
        else:
            if self._away is not None:
                log.warning("the database is back")
            self._away = None

    def _note_few(self, why: str) -> None:
        if not self._told_few:
            self._told_few = True
            connected = sum(worker.connected for worker in self._workers)
            log.warning("only %d connections to the database can be had: %s", connected, why)

    async def _run(self, worker: Worker, job: Job) -> None:
        if job.begin == READ and job.future.cancelled():  # nobody would see what it reads
            job.operation.close()
            return
        begun_at = time.monotonic()
        try:
            outcome = await worker.run(job, self._patience)
        except NotBegun:
            self._put_back(job)
            return
        except BaseException:
            settle(job.future, MaybeStored(CLOSED))
            raise
        self._note(job, outcome, took_s=time.monotonic() - begun_at)
        settle(job.future, outcome)

    def _note(self, job: Job, outcome: Any, *, took_s: float) -> None:
        failed = isinstance(outcome, StorageError)
        if failed:
            what = "write" if job.begin == WRITE else "read"
            log.error("a %s failed: %s", what, outcome)
        if failed or job.begin == WRITE:
            self._trouble.note(failed=failed)
        if job.begin == WRITE:
            self._committed(took_s, writes=1, failed=int(failed))

    def _stop(self) -> None:
        self._closing = True
        while self._resting:
            self._resting.pop().wake.set()


@asynccontextmanager
async def open_postgres(
    url: str,
    *,
    connections: int = CONNECTIONS,
    max_waiting: int = MAX_WAITING,
    patience: Patience = PATIENCE,
    committed: Committed = unwatched,
) -> AsyncIterator[PostgresDatabase]:
    """Open the database of a URL; close it after what was queued is committed.

    `connections` is how many there are at most; `max_waiting` operations wait for one, any more
    are refused. `committed` is told of each commit. Raises `StorageError` when the database cannot
    be opened.
    """
    async with _pool(url, connections, patience) as pool:
        database = PostgresDatabase(max_waiting=max_waiting, patience=patience, committed=committed)
        async with _working(database, [Worker(pool.connection) for _ in range(connections)]):
            yield database


@asynccontextmanager
async def _pool(
    url: str, connections: int, patience: Patience
) -> AsyncIterator[databases.Database]:
    pool = databases.Database(
        # asyncpg reads the URL: `databases` knows a part of its options, and says it in its log.
        "postgresql://",
        dsn=url,
        database=None,
        min_size=0,
        max_size=connections,
        max_inactive_connection_lifetime=0.0,
        statement_cache_size=_CACHED_STATEMENTS,
        timeout=patience.connect_s,
        server_settings=SETTINGS,
        init=partial(check, within_s=patience.connect_s),
        reset=_leave,
    )
    await pool.connect()
    try:
        await _try(pool)
        yield pool
    finally:
        with anyio.move_on_after(patience.close_s, shield=True):
            await pool.disconnect()


async def _leave(_: Any) -> None:
    """Ask nothing of a server whose connection is given back: it may not answer."""


async def _try(pool: databases.Database) -> None:
    try:
        async with pool.connection():
            pass
    except Exception as error:
        # From nowhere: what the driver cannot read of a URL may be its password.
        raise StorageError(f"cannot open the database: {reason(error)}") from None


@asynccontextmanager
async def _working(database: PostgresDatabase, workers: list[Worker]) -> AsyncIterator[None]:
    """Own the workers' tasks: begin them, and see them through what is queued when all is over."""
    # No task group: that would wrap whatever the server fails with in an ExceptionGroup.
    tasks = [asyncio.create_task(database._work(worker)) for worker in workers]
    # All of them rest before anything is asked for: else each would go and connect for it.
    await asyncio.sleep(0)
    try:
        yield
    finally:
        database._stop()
        # Shielded: what was queued is committed even when the server goes down with an error.
        with anyio.CancelScope(shield=True):
            _, late = await asyncio.wait(tasks, timeout=database._patience.close_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=database._patience.close_s)
