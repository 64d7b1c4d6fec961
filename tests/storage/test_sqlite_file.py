"""One writer that commits in groups, and readers that do not wait for it."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import text

from storage.operations import Operation
from storage.sqlite import BUSY_MS
from storage.sqlite_file import MAX_BATCH, SqliteDatabase
from tests.storage.notes import Gate, add, all_notes


async def ask(thread: Any, pragma: str) -> Any:
    def run(connection: sqlite3.Connection) -> Any:
        return connection.execute(f"PRAGMA {pragma}").fetchone()[0]

    return await thread.run(run)


async def test_many_writes_share_a_transaction(database: SqliteDatabase) -> None:
    executed: list[str] = []
    await database._writer.run(lambda connection: connection.set_trace_callback(executed.append))
    writes = [database.submit(add(f"{number:04}")) for number in range(MAX_BATCH + 1)]
    results = await asyncio.gather(*writes)
    assert executed.count("COMMIT") == 2
    assert results == [1] * (MAX_BATCH + 1)
    assert len(await database.read(all_notes())) == MAX_BATCH + 1


async def test_what_piles_up_during_a_commit_is_the_next_one(
    database: SqliteDatabase, gate: Gate
) -> None:
    executed: list[str] = []
    await database._writer.run(lambda connection: connection.set_trace_callback(executed.append))
    first = database.submit(gate.add("a"))
    await gate.entered()
    others = [database.submit(add(str(number))) for number in range(100)]
    gate.open()
    await asyncio.gather(first, *others)
    assert executed.count("COMMIT") == 2


async def test_writes_happen_in_the_order_they_were_asked_for(database: SqliteDatabase) -> None:
    def seen_by(number: int) -> Operation[int]:
        yield from add(str(number))
        rows = yield text("SELECT count(*) AS count FROM notes"), {}
        return int(rows[0]["count"])

    writes = [database.submit(seen_by(number)) for number in range(1_000)]
    assert await asyncio.gather(*writes) == list(range(1, 1_001))


async def test_a_backup_made_while_it_is_open_holds_what_was_committed(
    database: SqliteDatabase, raw: sqlite3.Connection, tmp_path: Path
) -> None:
    await asyncio.gather(*(database.write(add(f"{number:04}")) for number in range(100)))
    # What `.backup` of the sqlite3 program does.
    with closing(sqlite3.connect(tmp_path / "backup.db")) as backup:
        raw.backup(backup)
        [(kept,)] = backup.execute("SELECT count(*) FROM notes")
        [(well,)] = backup.execute("PRAGMA integrity_check")
    assert (kept, well) == (100, "ok")


async def test_readers_do_not_wait_for_a_writer(
    database: SqliteDatabase, raw: sqlite3.Connection
) -> None:
    raw.execute("BEGIN IMMEDIATE")
    raw.execute("INSERT INTO notes VALUES ('a')")
    with anyio.fail_after(BUSY_MS / 2_000):
        assert await database.read(all_notes()) == []
    raw.execute("COMMIT")
    assert await database.read(all_notes()) == ["a"]


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
    database: SqliteDatabase, pragma: str, writer: object, reader: object
) -> None:
    assert await ask(database._writer, pragma) == writer
    for thread in database._readers:
        assert await ask(thread, pragma) == (reader if reader is not None else 0)
