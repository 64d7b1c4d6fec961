"""What happens in SQLite's threads: pragmas, statements, batches. Synchronous."""

import sqlite3
from collections.abc import Sequence
from typing import Any, TypeVar

from sqlalchemy import Executable
from sqlalchemy.dialects.sqlite import dialect

from storage.operations import Operation, Parameters, Row, StorageError
from storage.statements import compiled

T = TypeVar("T")
BUSY_MS = 5_000

# By position: the driver would look up every single name for every execution.
_DIALECT = dialect(paramstyle="qmark")


def prepare_writing(connection: sqlite3.Connection) -> None:
    """Set up the one connection that writes."""
    _prepare(connection)
    connection.execute("PRAGMA journal_mode = WAL")
    # With group commit, FULL costs next to nothing; NORMAL can lose what was acknowledged.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    # What a savepoint may have to restore. In files, SQLite's default, a turn writes 60 KB of it.
    connection.execute("PRAGMA temp_store = MEMORY")


def prepare_reading(connection: sqlite3.Connection) -> None:
    """Set up a connection that reads: in WAL mode it neither waits for the writer nor stops it."""
    _prepare(connection)
    connection.execute("PRAGMA query_only = ON")


def run_batch(
    connection: sqlite3.Connection, operations: Sequence[Operation[Any]]
) -> list[Any | BaseException]:
    """Run operations in one transaction; return each one's result, or what it raised.

    An operation that raises is undone alone. Raises `StorageError` if none could be committed.
    """
    try:
        connection.execute("BEGIN IMMEDIATE")
        outcomes = [_run_undoable(connection, operation) for operation in operations]
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise StorageError(str(error)) from error
    finally:
        # After a failure; but on a full disk SQLite may have rolled back by itself already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    return outcomes


def run_snapshot(connection: sqlite3.Connection, operation: Operation[T]) -> T:
    """Run an operation that only selects, so that all its statements see the same rows."""
    connection.execute("BEGIN")
    try:
        return _run(connection, operation)
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _prepare(connection: sqlite3.Connection) -> None:
    connection.row_factory = sqlite3.Row
    # An adopted file may hold text that is no UTF-8; one such row must not hide the others.
    connection.text_factory = _decoded
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")


def _decoded(text: bytes) -> str:
    return text.decode(errors="replace")


def _run_undoable(connection: sqlite3.Connection, operation: Operation[Any]) -> Any:
    connection.execute("SAVEPOINT operation")
    try:
        outcome = _run(connection, operation)
    except Exception as error:  # it belongs to the one who asked
        if not connection.in_transaction:
            raise
        connection.execute("ROLLBACK TO operation")
        outcome = StorageError(str(error)) if isinstance(error, sqlite3.Error) else error
    connection.execute("RELEASE operation")
    return outcome


def _run(connection: sqlite3.Connection, operation: Operation[T]) -> T:
    rows: list[Row] = []
    try:
        statement, parameters = next(operation)
        while True:
            rows = _execute(connection, statement, parameters)
            statement, parameters = operation.send(rows)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        operation.close()


def _execute(
    connection: sqlite3.Connection, statement: Executable, parameters: Parameters
) -> list[Row]:
    it = compiled(statement, _DIALECT)
    return connection.execute(it.sql, it.values(parameters)).fetchall()
