"""What is acknowledged is stored, and nobody waits for ever, whatever breaks."""

import asyncio
import inspect
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import aiosqlite
import anyio
import pytest

from storage.operations import StorageError
from storage.sqlite_file import SqliteDatabase, open_sqlite
from tests.storage.notes import WITHIN_S, Mistake, ThreadGate, add, all_notes, create, stored

ROOT = Path(__file__).parents[2]


async def set_pragma(database: SqliteDatabase, pragma: str) -> None:
    await database._writer.run(lambda connection: connection.execute(f"PRAGMA {pragma}").close())


async def test_nobody_waits_for_ever_when_the_writer_is_killed(
    database: SqliteDatabase, gate: ThreadGate
) -> None:
    first = database.submit(gate.add("a"))
    await gate.entered()
    second = database.submit(add("b"))
    [writer] = [task for task in asyncio.all_tasks() if "_commit_batches" in str(task)]
    writer.cancel()
    with anyio.fail_after(WITHIN_S):
        results = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(result) for result in results] == [StorageError, StorageError]
    with pytest.raises(StorageError, match="closed"):
        await database.write(add("c"))


async def test_the_writer_survives_whatever_its_thread_raises(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise Mistake("unforeseen")

    with monkeypatch.context() as patch:
        patch.setattr("storage.sqlite_file.run_batch", broken)
        with pytest.raises(StorageError, match="unforeseen"):
            await database.write(add("a"))
    assert caplog.records[0].exc_info, "a mistake of ours is logged with its traceback"
    assert await database.write(add("b"))


async def test_everybody_in_a_failed_batch_gets_an_error_of_their_own(
    database: SqliteDatabase, raw: sqlite3.Connection
) -> None:
    await set_pragma(database, "busy_timeout = 10")
    raw.execute("BEGIN IMMEDIATE")
    writes = [database.submit(add(note)) for note in "ab"]
    first, second = await asyncio.gather(*writes, return_exceptions=True)
    assert isinstance(first, StorageError)
    assert isinstance(second, StorageError)
    assert first is not second
    raw.execute("ROLLBACK")
    assert await database.write(add("a"))


async def test_writing_goes_on_when_there_is_room_again(database: SqliteDatabase) -> None:
    # As many pages as there are: SQLite takes no smaller number.
    await set_pragma(database, "max_page_count = 1")
    with pytest.raises(StorageError, match="full"):
        await database.write(add("x" * 100_000))
    await set_pragma(database, "max_page_count = 1000000")
    assert await database.write(add("a"))
    assert await database.read(all_notes()) == ["a"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of one megabyte, where this machine lets us have one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True, timeout=WITHIN_S)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine does not let us mount a file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True, timeout=WITHIN_S)


async def test_a_full_disk_loses_nothing_that_was_acknowledged(small_disk: Path) -> None:
    path = small_disk / "chat.db"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(400_000))
    acknowledged: list[str] = []

    async def fill(database: SqliteDatabase) -> None:
        for number in range(200):
            note = f"{number:03}" + "x" * 10_000
            await database.write(add(note))
            acknowledged.append(note)

    async with open_sqlite(path) as database:
        await database.write(create())
        with pytest.raises(StorageError):
            await fill(database)
        assert len(acknowledged) > 10
        assert await database.read(all_notes()) == acknowledged
        ballast.unlink()
        await database.write(add("there is room again"))
        acknowledged.append("there is room again")
        assert await database.read(all_notes()) == acknowledged
    assert stored(path) == acknowledged


async def test_kill_9_loses_nothing_that_was_acknowledged(path: Path) -> None:
    command = [sys.executable, "-m", "tests.storage.acknowledge", str(path)]
    with anyio.fail_after(2 * WITHIN_S):
        async with await anyio.open_process(command, cwd=ROOT, stderr=None) as process:
            assert process.stdout is not None
            printed = b""
            while printed.count(b"\n") < 1_000:
                printed += await process.stdout.receive()
            process.kill()
            async for rest in process.stdout:
                printed += rest
    acknowledged = {int(line) for line in printed.split(b"\n")[:-1]}
    async with open_sqlite(path):
        pass  # the lock of the dead is gone
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = connection.execute("SELECT number, again FROM numbers").fetchall()
    assert all(number == again for number, again in rows)
    assert acknowledged <= {number for number, _ in rows}


# What the design leans on


def test_aiosqlite_still_has_what_we_use_of_its_inside() -> None:
    assert inspect.iscoroutinefunction(aiosqlite.Connection._execute)
    assert list(inspect.signature(aiosqlite.Connection._execute).parameters)[:2] == ["self", "fn"]
    assert isinstance(aiosqlite.Connection._conn, property)


async def test_aiosqlite_queues_a_call_before_it_waits(path: Path, gate: ThreadGate) -> None:
    async with aiosqlite.connect(path) as connection:
        ran: list[int] = []
        gate_opened = connection._execute(gate.wait)  # type: ignore[no-untyped-call]
        first = asyncio.ensure_future(gate_opened)
        await gate.entered()
        second = asyncio.ensure_future(
            connection._execute(ran.append, 2)  # type: ignore[no-untyped-call]
        )
        await anyio.wait_all_tasks_blocked()
        second.cancel()
        gate.open()
        await first
        await connection._execute(ran.append, 3)  # type: ignore[no-untyped-call]
    assert ran == [2, 3], "cancelling the wait does not take the call out of the queue"
