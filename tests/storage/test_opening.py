"""A database file is opened under any name, by one process, and closed whole."""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from storage.operations import StorageError
from storage.sqlite_file import SqliteDatabase, open_sqlite
from tests.storage.notes import WITHIN_S, add, create, stored

# Opening


@pytest.mark.parametrize("name", ["a b.db", "100%.db", "%41.db", "a?b=c.db", "a#b.db", "대화.db"])
async def test_a_file_may_be_called_anything(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / name
    async with open_sqlite(path) as database:
        await database.write(create())
        await database.write(add("a"))
    assert stored(path) == ["a"]
    assert sorted(os.listdir(path.parent)) == sorted([name, f"{name}-lock"])


async def test_a_path_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (Path("chat.db"), Path("new") / "chat.db"):
        async with open_sqlite(path) as database:
            await database.write(create())
        assert (tmp_path / path).is_file()


async def test_a_file_that_is_in_use_is_refused_by_name(
    database: SqliteDatabase, path: Path
) -> None:
    with pytest.raises(StorageError, match=f"{path} is in use"):
        async with open_sqlite(path):
            pass
    assert await database.write(add("a"))


async def test_a_file_is_in_use_under_every_name_it_has(
    database: SqliteDatabase, path: Path
) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    with pytest.raises(StorageError, match="in use"):
        async with open_sqlite(link):
            pass


async def test_a_new_file_is_for_nobody_elses_eyes(path: Path) -> None:
    async with open_sqlite(path) as database:
        await database.write(create())
        modes = {name: (path.parent / name).stat().st_mode for name in os.listdir(path.parent)}
    assert set(modes) == {"chat.db", "chat.db-wal", "chat.db-shm", "chat.db-lock"}
    assert all(mode & 0o077 == 0 for mode in modes.values())


async def test_a_closed_file_can_be_opened_again(path: Path) -> None:
    for note in ("a", "b"):
        async with open_sqlite(path) as database:
            await database.write(create())
            await database.write(add(note))
    assert stored(path) == ["a", "b"]


def directory(path: Path) -> None:
    path.mkdir()


def parent_is_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_text("")


def no_database(path: Path) -> None:
    path.write_text("Dear diary, " * 1_000)


@pytest.mark.parametrize("spoil", [directory, parent_is_a_file, no_database])
async def test_what_cannot_be_opened_is_named_and_leaves_no_thread(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    path = tmp_path / "folder" / "chat.db"
    path.parent.mkdir()
    spoil(path)
    with no_thread_left(), pytest.raises(StorageError, match=f"cannot open {path}"):
        async with open_sqlite(path):
            pass


async def test_a_file_that_another_process_has_locked_cannot_be_opened(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.sqlite.BUSY_MS", 10)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageError, match="locked"):
            async with open_sqlite(path):
                pass


# Closing


def connection_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if "_connection_worker_thread" in each.name]


@contextmanager
def no_thread_left() -> Iterator[None]:
    """Expect that the threads of all connections come to an end."""
    yield
    for thread in connection_threads():
        thread.join(WITHIN_S)
    assert connection_threads() == []


async def test_no_thread_is_left_after_closing(path: Path) -> None:
    with no_thread_left():
        async with open_sqlite(path, readers=3) as database:
            assert len(connection_threads()) == 4
            await database.write(create())
