import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from storage.sqlite_file import SqliteDatabase, open_sqlite
from tests.servers.postgres import fresh_database
from tests.storage.notes import WITHIN_S, ThreadGate, create
from tests.storage.store import PostgresStore, SqliteStore, Store


@pytest.fixture
def empty_sqlite() -> Iterator[SqliteStore]:
    """A database of SQLite, in memory, that has no tables yet."""
    with closing(SqliteStore()) as store:
        yield store


@pytest.fixture
def sqlite(empty_sqlite: SqliteStore) -> SqliteStore:
    """A database of SQLite, in memory, up to date, with a session `s1`."""
    empty_sqlite.migrate()
    empty_sqlite.session()
    return empty_sqlite


@pytest.fixture
def empty_postgres(postgres_url: str) -> Iterator[PostgresStore]:
    """A database of PostgreSQL that has no tables yet."""
    with closing(PostgresStore(postgres_url)) as store:
        yield store


@pytest.fixture(scope="session")
def kept_postgres(postgres_server_url: str) -> Iterator[PostgresStore]:
    """A database of PostgreSQL, up to date, that tests share one after the other."""
    with fresh_database(postgres_server_url) as url, closing(PostgresStore(url)) as store:
        store.migrate()
        yield store


@pytest.fixture
def postgres(kept_postgres: PostgresStore) -> PostgresStore:
    """A database of PostgreSQL, up to date, with a session `s1`."""
    kept_postgres.empty()
    kept_postgres.session()
    return kept_postgres


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest) -> Store:
    """A database of either kind, up to date, with a session `s1`."""
    store: Store = request.getfixturevalue(request.param)
    return store


@pytest.fixture(params=["sqlite", "postgres"])
def empty_store(request: pytest.FixtureRequest) -> Store:
    """A database of either kind that has no tables yet."""
    store: Store = request.getfixturevalue(f"empty_{request.param}")
    return store


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
async def database(path: Path) -> AsyncIterator[SqliteDatabase]:
    """An open database file with a table of notes."""
    with anyio.fail_after(2 * WITHIN_S):
        async with open_sqlite(path) as database:
            await database.write(create())
            yield database


@pytest.fixture
def gate() -> Iterator[ThreadGate]:
    """Holds operations up; open at the end, so that no thread is left waiting."""
    gate = ThreadGate()
    yield gate
    gate.open()


@pytest.fixture
def raw(database: SqliteDatabase, path: Path) -> Iterator[sqlite3.Connection]:
    """Another process's connection to the file of `database`, as it were."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection
