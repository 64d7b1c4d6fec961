"""One SQLite file: one writer with group commit, and readers that do not wait for it.

`databases` opens and closes the connections. Statements do not go through its own calls: those hop
to another thread once per statement (2,300 commits a second on two cores, against 39,000 with one
hop per batch), and a cancelled transaction poisons them.
"""

import asyncio
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote

import aiosqlite
import anyio
import databases

from storage.operations import Operation, StorageError
from storage.sqlite import prepare_reading, prepare_writing, run_batch, run_snapshot
from storage.trouble import Trouble
from storage.waiting import CLOSED, MAX_WAITING, settle
from storage.watching import Committed, unwatched

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_BATCH = 256
CLOSE_WITHIN_S = 5.0


class SqliteDatabase:
    """Runs operations on one file; made by `open_sqlite`. A `Database`."""

    def __init__(
        self,
        writer: "_Thread",
        readers: Sequence["_Thread"],
        *,
        max_waiting: int,
        committed: Committed = unwatched,
    ) -> None:
        self._writer = writer
        self._committed = committed
        self._max_waiting = max_waiting
        self._readers = readers
        self._next_reader = 0
        self._waiting: list[_Write] = []
        self._work = asyncio.Event()
        self._closing = False
        self._trouble = Trouble()
        self._committing_since: float | None = None

    @property
    def in_trouble(self) -> bool:
        """Whether the database gives reason to doubt it."""
        return self._trouble.seen(self._committing_since)

    async def write(self, operation: Operation[T]) -> T:
        """Run an operation and commit it, durably, before returning its result."""
        return await self.submit(operation)

    def submit(self, operation: Operation[T]) -> asyncio.Future[T]:
        """Queue a write without waiting for it; the future resolves when it is committed."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if self._closing or len(self._waiting) >= self._max_waiting:
            operation.close()
            why = CLOSED if self._closing else "too many writes are waiting"
            settle(future, StorageError(why))
        else:
            self._waiting.append((operation, future))
            self._work.set()
        return future

    async def read(self, operation: Operation[T]) -> T:
        """Run an operation that only selects, on one snapshot of the database."""
        if self._closing:
            operation.close()
            raise StorageError(CLOSED)
        self._next_reader = (self._next_reader + 1) % len(self._readers)
        reader = self._readers[self._next_reader]
        return await reader.run(lambda connection: run_snapshot(connection, operation))

    async def _commit_batches(self) -> None:
        """The writer: what piled up while one batch was committed becomes the next."""
        try:
            while self._waiting or not self._closing:
                await self._work.wait()
                self._work.clear()
                while self._waiting:
                    batch = self._waiting[:MAX_BATCH]
                    await self._commit(batch)
                    del self._waiting[: len(batch)]
        finally:
            # However the writer comes to its end, nobody waits for it for ever.
            self._closing = True
            for _, future in self._waiting:
                settle(future, StorageError(CLOSED))

    async def _commit(self, batch: "list[_Write]") -> None:
        operations = [operation for operation, _ in batch]
        self._committing_since = begun_at = time.monotonic()
        try:
            outcomes = await self._writer.run(lambda connection: run_batch(connection, operations))
        except Exception as error:  # whatever it is, the writer lives on: the next batch may work
            foreseen = isinstance(error, StorageError)
            log.error("%d writes failed: %s", len(batch), error, exc_info=not foreseen)
            # One each: several tasks raising the same exception would mix up its traceback.
            outcomes = [StorageError(str(error)) for _ in batch]
        else:
            for outcome in outcomes:
                if isinstance(outcome, StorageError):
                    log.error("a write failed: %s", outcome)
        self._committing_since = None
        failed = sum(isinstance(outcome, StorageError) for outcome in outcomes)
        self._trouble.note(failed=failed > 0)
        self._committed(time.monotonic() - begun_at, writes=len(batch), failed=failed)
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            settle(future, outcome)

    def _stop(self) -> None:
        self._closing = True
        self._work.set()


_Prepare = Callable[[sqlite3.Connection], None]
_Write = tuple[Operation[Any], asyncio.Future[Any]]


class _Thread:
    """A kept connection and the thread that owns it; calls run there in order."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection

    async def run(self, call: Callable[[sqlite3.Connection], T]) -> T:
        # Private to aiosqlite, and pinned by a test: there is no public way to run several
        # statements in one visit to the thread. It is queued at once, so that cancelling the
        # wait neither stops the call nor lets another one in between.
        try:
            connection = self._connection
            return cast(T, await connection._execute(call, connection._conn))  # type: ignore[no-untyped-call]  # private
        except sqlite3.Error as error:
            raise StorageError(str(error)) from error


@asynccontextmanager
async def open_sqlite(
    path: Path,
    *,
    readers: int = 2,
    max_waiting: int = MAX_WAITING,
    committed: Committed = unwatched,
) -> AsyncIterator[SqliteDatabase]:
    """Open, or create, a database file; close it after what was queued is committed.

    At most `max_waiting` writes wait for their turn; any more are refused. `committed` is told of
    each batch.
    Raises `StorageError` when it cannot be opened or another process has it open.
    """
    with _sole_owner(path):
        async with AsyncExitStack() as stack:
            prepares = [prepare_writing] + [prepare_reading] * readers
            writer, *reading = [
                await stack.enter_async_context(_thread(path, prepare)) for prepare in prepares
            ]
            database = SqliteDatabase(writer, reading, max_waiting=max_waiting, committed=committed)
            async with _writing(database):
                yield database


@asynccontextmanager
async def _writing(database: SqliteDatabase) -> AsyncIterator[None]:
    """Own the writer's task: begin it, and see it through what is queued when all is over."""
    # No task group: that would wrap whatever the server fails with in an ExceptionGroup.
    writer = asyncio.create_task(database._commit_batches())
    try:
        yield
    finally:
        database._stop()
        # Shielded: what was queued is committed even when the server goes down with an error.
        with anyio.CancelScope(shield=True):
            await asyncio.wait([writer])


def _url(path: Path) -> str:
    # Absolute, for a name such as `file:chat.db` would be taken for a URI by SQLite.
    return f"sqlite:///{quote(str(path.absolute()))}"


@asynccontextmanager
async def _thread(path: Path, prepare: _Prepare) -> AsyncIterator[_Thread]:
    connection = databases.Database(_url(path)).connection()
    await connection.__aenter__()
    try:
        thread = _Thread(cast(aiosqlite.Connection, connection.raw_connection))
        await _prepared(thread, prepare, path)
        yield thread
    finally:
        # aiosqlite's threads are no daemons: one that hangs would keep the process alive.
        with anyio.move_on_after(CLOSE_WITHIN_S, shield=True):
            await connection.__aexit__()


async def _prepared(thread: _Thread, prepare: _Prepare, path: Path) -> None:
    try:
        await thread.run(prepare)
    except StorageError as error:
        raise StorageError(f"cannot open {path}: {error}") from error


@contextmanager
def _sole_owner(path: Path) -> Iterator[None]:
    """Hold the lock that keeps a second gateway off the same file, which is there from then on."""
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Beside the file that a link leads to, so that every name of it finds the same lock.
            # Not the file itself: closing it would let go of the locks that SQLite holds on it.
            lock = _opened(f"{path.resolve()}-lock")
            stack.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # What cannot be opened shows here: when aiosqlite fails to open a file it does not
            # wait for its thread, which then may outlive the loop and die noisily.
            os.close(_opened(path))
        except BlockingIOError:
            raise StorageError(f"{path} is in use by another gateway") from None
        except OSError as error:
            raise StorageError(f"cannot open {path}: {error.strerror}") from error
        yield


def _opened(path: Path | str) -> int:
    # For nobody else's eyes: the file holds conversations.
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
