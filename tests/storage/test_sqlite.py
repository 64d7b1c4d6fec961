"""Batches and snapshots on one connection, without a loop."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from storage.operations import Operation, StorageError
from storage.sqlite import prepare_reading, prepare_writing, run_batch, run_snapshot
from tests.storage.notes import Mistake, add, add_and_fail, all_notes, create


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        prepare_writing(connection)
        run_batch(connection, [create()])
        yield connection


@pytest.fixture
def other(connection: sqlite3.Connection, path: Path) -> Iterator[sqlite3.Connection]:
    """A connection of another process, as it were."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        yield other


def notes(connection: sqlite3.Connection) -> list[str]:
    return run_snapshot(connection, all_notes())


def test_a_batch_is_one_transaction(connection: sqlite3.Connection) -> None:
    executed: list[str] = []
    connection.set_trace_callback(executed.append)
    assert run_batch(connection, [add("a"), add("b", "c"), add()]) == [1, 2, 0]
    assert executed.count("BEGIN IMMEDIATE") == executed.count("COMMIT") == 1
    assert notes(connection) == ["a", "b", "c"]


def test_an_operation_that_raises_is_undone_alone(connection: sqlite3.Connection) -> None:
    mistake = Mistake()
    outcomes = run_batch(connection, [add("a"), add_and_fail("b", mistake), add("c")])
    assert outcomes == [1, mistake, 1]
    assert notes(connection) == ["a", "c"]


def test_an_operation_that_the_database_refuses_is_undone_alone(
    connection: sqlite3.Connection,
) -> None:
    first, second, third = run_batch(connection, [add("a"), add("b", "a"), add("c")])
    assert (first, third) == (1, 1)
    assert isinstance(second, StorageError)
    assert "UNIQUE" in str(second)
    assert notes(connection) == ["a", "c"]


def test_an_operation_sees_what_those_before_it_did(connection: sqlite3.Connection) -> None:
    assert run_batch(connection, [add("a"), all_notes(), add("b"), all_notes()]) == [
        *(1, ["a"]),
        *(1, ["a", "b"]),
    ]


def test_what_is_no_exception_but_worse_undoes_the_whole_batch(
    connection: sqlite3.Connection,
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_batch(connection, [add("a"), add_and_fail("b", KeyboardInterrupt())])
    assert not connection.in_transaction
    assert notes(connection) == []


def test_a_locked_database_fails_the_batch_and_works_again(
    connection: sqlite3.Connection, other: sqlite3.Connection
) -> None:
    connection.execute("PRAGMA busy_timeout = 10")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="locked"):
        run_batch(connection, [add("a")])
    other.execute("ROLLBACK")
    assert run_batch(connection, [add("a")]) == [1]


def test_a_full_database_fails_what_does_not_fit_and_works_again(
    connection: sqlite3.Connection,
) -> None:
    [[pages]] = connection.execute("PRAGMA page_count").fetchall()
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StorageError, match="full"):
        run_batch(connection, [add("b"), add("x" * 100_000)])
    connection.execute("PRAGMA max_page_count = 1000000")
    assert run_batch(connection, [add("a")]) == [1]
    assert notes(connection) == ["a"]


def test_when_sqlite_rolls_back_by_itself_nothing_of_the_batch_is_kept(
    connection: sqlite3.Connection,
) -> None:
    connection.execute(
        "CREATE TRIGGER give_up BEFORE INSERT ON notes WHEN new.note = 'b'"
        " BEGIN SELECT raise(ROLLBACK, 'gave up'); END"
    )
    with pytest.raises(StorageError, match="gave up"):
        run_batch(connection, [add("a"), add("b"), add("c")])
    assert not connection.in_transaction
    assert run_batch(connection, [add("d")]) == [1]
    assert notes(connection) == ["d"]


def test_a_snapshot_does_not_see_what_is_written_meanwhile(
    connection: sqlite3.Connection, other: sqlite3.Connection
) -> None:
    def read_twice() -> Operation[tuple[Any, Any]]:
        before = yield from all_notes()
        other.execute("INSERT INTO notes VALUES ('b')")
        return before, (yield from all_notes())

    run_batch(connection, [add("a")])
    assert run_snapshot(connection, read_twice()) == (["a"], ["a"])
    assert notes(connection) == ["a", "b"]


def test_a_snapshot_ends_with_its_operation_whatever_happens(
    connection: sqlite3.Connection,
) -> None:
    with pytest.raises(Mistake):
        run_snapshot(connection, add_and_fail("a", Mistake()))
    with pytest.raises(sqlite3.IntegrityError):
        run_snapshot(connection, add("a", "a"))
    assert not connection.in_transaction
    assert notes(connection) == []


def test_an_operation_is_closed_when_a_statement_of_it_fails(
    connection: sqlite3.Connection,
) -> None:
    closed = []

    def careful() -> Operation[None]:
        try:
            yield text("SELECT * FROM nowhere"), {}
        finally:
            closed.append(True)

    [outcome] = run_batch(connection, [careful()])
    assert isinstance(outcome, StorageError)
    assert closed == [True]


def test_a_reading_connection_cannot_write(connection: sqlite3.Connection, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as reading:
        prepare_reading(reading)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            run_snapshot(reading, add("a"))


def test_text_that_is_no_utf_8_is_read_all_the_same(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO notes VALUES (CAST(X'41FF' AS TEXT))")
    assert notes(connection) == ["A\ufffd"]


@pytest.mark.parametrize("note", ["%", ":new_note", "?", "';--", "\\", "안녕", "😀", "\u2028"])
def test_text_is_stored_as_it_is(connection: sqlite3.Connection, note: str) -> None:
    run_batch(connection, [add(note)])
    assert notes(connection) == [note]
