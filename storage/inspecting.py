"""A look at a database that changes nothing there: no file is made, no migration applied."""

import fcntl
import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from storage.migrations import MIGRATIONS
from storage.operations import StorageError

if TYPE_CHECKING:
    import asyncpg

CONNECT_S = 3.0
_MIGRATIONS = "SELECT name FROM migrations"


@dataclass(frozen=True)
class Schema:
    """Which tables a database has."""

    applied: frozenset[str]
    """The migrations that were applied; none in an empty database, or in one of the original's."""

    is_original: bool = False

    @property
    def missing(self) -> list[str]:
        """The migrations that the next start applies."""
        return [name for name in MIGRATIONS if name not in self.applied]

    @property
    def unknown(self) -> list[str]:
        """Those that this version does not know: a newer one was here."""
        return sorted(self.applied - MIGRATIONS.keys())


@dataclass(frozen=True)
class Server:
    """What a server of PostgreSQL says of itself."""

    version: int
    """Its number, such as 160004."""

    connections: int
    """How many it lets in, those left out that only its owner gets."""

    in_use: int
    encoding: str
    read_only: bool
    may_create: bool
    """Whether tables may be made there by who connects."""

    schema: Schema


def sqlite_schema(path: Path) -> Schema:
    """Read which tables a file has; raises `StorageError`."""
    # Without a log of changes nothing but the file is to be read, nor made beside it.
    log = Path(f"{path.resolve()}-wal")
    alone = "&immutable=1" if not log.exists() or log.stat().st_size == 0 else ""
    uri = f"file:{quote(str(path.absolute()))}?mode=ro{alone}"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=CONNECT_S)) as connection:
            named = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            tables = {name for (name,) in named}
            applied = _names(connection.execute(_MIGRATIONS)) if "migrations" in tables else ()
            return _schema(tables, applied)
    except sqlite3.Error as error:
        raise StorageError(str(error)) from None


def is_in_use(path: Path) -> bool:
    """Whether a gateway has the file open."""
    try:
        lock = os.open(f"{path.resolve()}-lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Shared, and let go of at once.
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


async def postgres_server(url: str) -> Server:
    """Ask a server of PostgreSQL; raises `StorageError`, which never holds a password."""
    # Only here: a gateway that is alone needs no driver of PostgreSQL.
    import asyncpg

    from storage.postgres_connection import reason

    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_S, command_timeout=CONNECT_S)
    except Exception as error:  # whatever the driver meets
        raise StorageError(reason(error)) from None
    try:
        return await _ask(connection)
    except Exception as error:
        raise StorageError(reason(error)) from None
    finally:
        connection.terminate()


_STATE = """
SELECT current_setting('server_version_num')::int AS version,
       current_setting('max_connections')::int
       - current_setting('superuser_reserved_connections')::int AS connections,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') - 1 AS in_use,
       current_setting('server_encoding') AS encoding,
       pg_is_in_recovery() OR current_setting('default_transaction_read_only') = 'on' AS read_only,
       coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create
"""
_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"


async def _ask(connection: "asyncpg.Connection") -> Server:
    state = await connection.fetchrow(_STATE)
    tables = {row[0] for row in await connection.fetch(_TABLES)}
    applied = _names(await connection.fetch(_MIGRATIONS)) if "migrations" in tables else ()
    return Server(**state, schema=_schema(tables, applied))


def _names(rows: Iterable[tuple[str]]) -> list[str]:
    return [row[0] for row in rows]


def _schema(tables: set[str], applied: Iterable[str]) -> Schema:
    original = {"sessions", "messages"} <= tables and "migrations" not in tables
    return Schema(frozenset(applied), is_original=original)
