"""What the gateway asks of a database, and where one is opened: a file of SQLite, or PostgreSQL."""

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

from storage.operations import Operation
from storage.watching import Committed, unwatched

T = TypeVar("T")

SERVER_SCHEMES = ("postgresql://", "postgres://")


class Database(Protocol):
    """Runs operations; made by `open_database`.

    Cancelling a call stops the waiting, never the operation: it happens whole or not at all.
    """

    @property
    def in_trouble(self) -> bool:
        """Whether the last commit failed, or one did lately, or one takes suspiciously long."""

    async def write(self, operation: Operation[T]) -> T:
        """Run an operation and commit it, durably, before returning its result.

        Raises `StorageError` when the database fails, and whatever the operation raises.
        """

    def submit(self, operation: Operation[T]) -> asyncio.Future[T]:
        """Queue a write without waiting for it; the future resolves when it is committed.

        Whoever does not care how it went may let the future go.
        """

    async def read(self, operation: Operation[T]) -> T:
        """Run an operation that only selects, on one snapshot of the database.

        Raises `StorageError` when the database fails, and whatever the operation raises.
        """


def open_database(
    where: str | Path,
    *,
    connections: int = 10,
    operation_s: float | None = None,
    committed: Committed = unwatched,
) -> AbstractAsyncContextManager[Database]:
    """Open the database of a URL of PostgreSQL, or else of a file of SQLite, until the exit.

    `connections` is how many there are to a server at most, `operation_s` how long one operation
    may take there; `committed` is told of each commit. What was queued is committed before it
    closes. Raises `StorageError` when it cannot be opened.
    """
    # Only here, so that with a file nobody needs the driver of PostgreSQL.
    if isinstance(where, str) and where.startswith(SERVER_SCHEMES):
        from storage.postgres import PATIENCE, open_postgres

        patience = replace(PATIENCE, operation_s=operation_s or PATIENCE.operation_s)
        return open_postgres(where, connections=connections, patience=patience, committed=committed)
    from storage.sqlite_file import open_sqlite

    return open_sqlite(Path(where), committed=committed)
