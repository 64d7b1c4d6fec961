import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from storage.database import Database, open_database
from tests.storage.notes import WITHIN_S, Gate, create
from tests.storage.store import Store


@pytest.fixture
def empty_store() -> Iterator[Store]:
    """A database in memory that has no tables yet."""
    store = Store()
    yield store
    store.connection.close()


@pytest.fixture
def store(empty_store: Store) -> Store:
    """A database in memory, up to date, with a session `s1`."""
    empty_store.migrate()
    empty_store.session()
    return empty_store


@pytest.fixture
def in_seoul(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process lives nine hours ahead of UTC."""
    with monkeypatch.context() as patch:
        # Spelt out, since the machine may not know cities.
        patch.setenv("TZ", "KST-9")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a database file may be."""
    return tmp_path / "chat.db"


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    """An open database file with a table of notes."""
    with anyio.fail_after(2 * WITHIN_S):
        async with open_database(path) as database:
            await database.write(create())
            yield database


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Holds operations up; open at the end, so that no thread is left waiting."""
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture
def raw(database: Database, path: Path) -> Iterator[sqlite3.Connection]:
    """Another process's connection to the file of `database`, as it were."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection
