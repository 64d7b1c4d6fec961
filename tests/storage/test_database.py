"""One writer that commits in groups, and readers that do not wait for it."""

import asyncio
import gc
import sqlite3
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from sqlalchemy import text

from storage.database import MAX_BATCH, Database, open_database
from storage.operations import Operation, StorageError
from storage.sqlite import BUSY_MS
from tests.storage.notes import ALL, Gate, Mistake, add, add_and_fail, all_notes, create


async def ask(thread: Any, pragma: str) -> Any:
    def run(connection: sqlite3.Connection) -> Any:
        return connection.execute(f"PRAGMA {pragma}").fetchone()[0]

    return await thread.run(run)


async def test_many_writes_share_a_transaction(database: Database) -> None:
    executed: list[str] = []
    await database._writer.run(lambda connection: connection.set_trace_callback(executed.append))
    writes = [database.submit(add(f"{number:04}")) for number in range(MAX_BATCH + 1)]
    results = await asyncio.gather(*writes)
    assert executed.count("COMMIT") == 2
    assert results == [1] * (MAX_BATCH + 1)
    assert len(await database.read(all_notes())) == MAX_BATCH + 1


async def test_what_piles_up_during_a_commit_is_the_next_one(
    database: Database, gate: Gate
) -> None:
    executed: list[str] = []
    await database._writer.run(lambda connection: connection.set_trace_callback(executed.append))
    first = database.submit(gate.add("a"))
    await gate.entered()
    others = [database.submit(add(str(number))) for number in range(100)]
    gate.open()
    await asyncio.gather(first, *others)
    assert executed.count("COMMIT") == 2


async def test_writes_happen_in_the_order_they_were_asked_for(database: Database) -> None:
    def seen_by(number: int) -> Operation[int]:
        yield from add(str(number))
        rows = yield text("SELECT count(*) AS count FROM notes"), {}
        return int(rows[0]["count"])

    writes = [database.submit(seen_by(number)) for number in range(1_000)]
    assert await asyncio.gather(*writes) == list(range(1, 1_001))


async def test_an_operation_that_raises_is_undone_alone(database: Database) -> None:
    mistaken = add_and_fail("b", Mistake())
    writes = [database.submit(operation) for operation in (add("a"), mistaken, add("c"), add("a"))]
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(result) for result in results] == [int, Mistake, int, StorageError]
    assert await database.read(all_notes()) == ["a", "c"]


async def test_a_failure_without_a_waiter_is_logged_once_and_not_by_asyncio(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        database.submit(add("a"))
    await database.write(add("b"))
    gc.collect()
    await anyio.lowlevel.checkpoint()
    assert [record.name for record in caplog.records] == ["storage.database"]
    assert "UNIQUE" in caplog.text


async def test_too_many_waiting_writes_are_refused(path: Path) -> None:
    async with open_database(path, max_waiting=2) as database:
        await database.write(create())
        writes = [database.submit(add(str(number))) for number in range(3)]
        results = await asyncio.gather(*writes, return_exceptions=True)
        assert results[:2] == [1, 1]
        assert isinstance(results[2], StorageError)
        assert await database.write(add("2"))


# Cancelling


async def test_a_write_whose_waiter_is_cancelled_is_done_whole(
    database: Database, gate: Gate
) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(database.write, gate.add("a"))
        await gate.entered()
        tasks.start_soon(database.write, add("b"))
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    gate.open()
    await database.write(add("c"))
    assert await database.read(all_notes()) == ["a 1", "a 2", "b", "c"]


async def test_a_read_whose_waiter_is_cancelled_harms_no_other(
    database: Database, gate: Gate
) -> None:
    await database.write(add("a"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(database.read, gate.read_twice())
        await gate.entered()
        tasks.cancel_scope.cancel()
    gate.open()
    for _ in database._readers:
        assert await database.read(all_notes()) == ["a"]


# Reading


async def test_readers_do_not_wait_for_a_writer(
    database: Database, raw: sqlite3.Connection
) -> None:
    raw.execute("BEGIN IMMEDIATE")
    raw.execute("INSERT INTO notes VALUES ('a')")
    with anyio.fail_after(BUSY_MS / 2_000):
        assert await database.read(all_notes()) == []
    raw.execute("COMMIT")
    assert await database.read(all_notes()) == ["a"]


async def test_a_reader_sees_one_moment(database: Database, gate: Gate) -> None:
    await database.write(add("a"))
    reading = asyncio.ensure_future(database.read(gate.read_twice()))
    await gate.entered()
    await database.write(add("b"))
    gate.open()
    assert await reading == (["a"], ["a"])
    assert await database.read(all_notes()) == ["a", "b"]


async def test_a_reader_does_not_wait_for_another(database: Database, gate: Gate) -> None:
    reading = asyncio.ensure_future(database.read(gate.read_twice()))
    await gate.entered()
    assert await database.read(all_notes()) == []
    gate.open()
    await reading


async def test_what_is_written_can_be_read_at_once_by_every_reader(database: Database) -> None:
    for number in range(20):
        await database.write(add(str(number)))
        assert str(number) in await database.read(all_notes())


async def test_a_reader_cannot_write(database: Database) -> None:
    for _ in database._readers:
        with pytest.raises(StorageError, match="readonly"):
            await database.read(add("a"))
    assert await database.read(all_notes()) == []


async def test_a_read_that_fails_raises_what_went_wrong(database: Database) -> None:
    def fail() -> Operation[None]:
        yield ALL, {}
        raise Mistake

    def stumble() -> Operation[None]:
        yield text("SELECT * FROM nowhere"), {}

    with pytest.raises(Mistake):
        await database.read(fail())
    with pytest.raises(StorageError, match="nowhere"):
        await database.read(stumble())
    assert await database.read(all_notes()) == []


@pytest.mark.parametrize(
    ("pragma", "writer", "reader"),
    [
        ("journal_mode", "wal", "wal"),
        ("synchronous", 2, 2),
        ("foreign_keys", 1, None),
        ("temp_store", 2, None),
        ("busy_timeout", BUSY_MS, BUSY_MS),
        ("query_only", 0, 1),
    ],
)
async def test_every_connection_is_set_up(
    database: Database, pragma: str, writer: object, reader: object
) -> None:
    assert await ask(database._writer, pragma) == writer
    for thread in database._readers:
        assert await ask(thread, pragma) == (reader if reader is not None else 0)
