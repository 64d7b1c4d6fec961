"""A database is brought up to date, whole or not at all."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from storage import migrations
from storage.migrations import MIGRATIONS, migrate
from storage.operations import Operation, StorageError
from storage.sqlite_file import open_sqlite
from storage.times import age_s
from tests.storage.original import ORIGINAL
from tests.storage.store import SqliteStore, Store


def test_a_fresh_database_gets_every_table_and_is_then_up_to_date(empty_store: Store) -> None:
    assert empty_store.migrate() == list(MIGRATIONS)
    assert set(empty_store.tables()) == {
        *("sessions", "messages", "message_order", "turns", "leases", "owners", "shares"),
        "migrations",
    }
    before = empty_store.tables()
    assert empty_store.migrate() == []
    assert empty_store.tables() == before


def test_an_applied_migration_is_noted_with_its_time(empty_store: Store) -> None:
    empty_store.migrate()
    noted = empty_store.rows("SELECT name, applied_at FROM migrations")
    assert [name for name, _ in noted] == list(MIGRATIONS)
    assert all(age_s(applied_at) < 60 for _, applied_at in noted)


def test_only_what_is_missing_is_applied(
    empty_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def later() -> Operation[None]:
        yield text("CREATE TABLE later (n INTEGER)"), {}

    empty_store.migrate()
    monkeypatch.setitem(migrations.MIGRATIONS, "later", later)
    assert empty_store.migrate() == ["later"]
    assert empty_store.migrate() == []


def test_when_one_migration_fails_none_is_applied(
    empty_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Operation[None]:
        yield text("CREATE TABLE later (n INTEGER)"), {}
        yield text("INSERT INTO nowhere VALUES (1)"), {}

    monkeypatch.setitem(migrations.MIGRATIONS, "broken", broken)
    with pytest.raises(StorageError, match="nowhere"):
        empty_store.migrate()
    assert empty_store.tables() == {}
    monkeypatch.delitem(migrations.MIGRATIONS, "broken")
    assert empty_store.migrate() == list(MIGRATIONS)


async def test_a_database_file_is_migrated_once(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    for missing in (list(MIGRATIONS), []):
        async with open_sqlite(path) as database:
            assert await migrate(database) == missing


async def test_a_file_of_something_else_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE sessions (id INTEGER, cookie TEXT)")
    async with open_sqlite(path) as database:
        with pytest.raises(StorageError, match="no such column"):
            await migrate(database)
    with closing(sqlite3.connect(path)) as connection:
        names = connection.execute("SELECT name FROM sqlite_master").fetchall()
    assert names == [("sessions",)]


def test_the_original_tables_are_made_as_the_original_made_them(
    empty_sqlite: SqliteStore,
) -> None:
    empty_sqlite.migrate()
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(ORIGINAL)
        original = SqliteStore(connection)
        for table in ("sessions", "messages"):
            for pragma in ("table_info", "foreign_key_list"):
                columns = f"PRAGMA {pragma}({table})"
                ours = empty_sqlite.rows(columns)
                theirs = original.rows(columns)
                # SQLAlchemy writes NOT NULL for primary keys, which the original left out.
                assert [row[:3] for row in ours] == [row[:3] for row in theirs]
                assert [row[4:] for row in ours] == [row[4:] for row in theirs]
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        empty_sqlite.connection.execute("INSERT INTO messages (message_id, role) VALUES ('m', 'x')")
