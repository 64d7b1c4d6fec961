"""The kinds of databases, as a test sees them that holds for all."""

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from storage.database import Database
from storage.postgres import open_postgres
from storage.sqlite_file import open_sqlite
from storage.waiting import MAX_WAITING
from tests.servers.postgres import sql
from tests.storage import notes
from tests.storage.notes import Gate, ServerGate, ThreadGate


class Kind(ABC):
    """A place where a database is, which is opened and closed at will."""

    @abstractmethod
    def open(self, *, max_waiting: int = MAX_WAITING) -> AbstractAsyncContextManager[Database]:
        """Open it."""

    @abstractmethod
    def stored(self) -> list[str]:
        """Read all notes, sorted, while it is closed."""

    @abstractmethod
    def gate(self) -> Gate:
        """Make a gate that holds its operations up."""


class Sqlite(Kind):
    """A file of SQLite."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, *, max_waiting: int = MAX_WAITING) -> AbstractAsyncContextManager[Database]:
        """Open it."""
        return open_sqlite(self._path, max_waiting=max_waiting)

    def stored(self) -> list[str]:
        """Read all notes, sorted, while it is closed."""
        return notes.stored(self._path)

    def gate(self) -> Gate:
        """Make a gate that holds its operations up."""
        return ThreadGate()


class Postgres(Kind):
    """A database of PostgreSQL."""

    def __init__(self, url: str) -> None:
        self._url = url

    def open(self, *, max_waiting: int = MAX_WAITING) -> AbstractAsyncContextManager[Database]:
        """Open it."""
        return open_postgres(self._url, max_waiting=max_waiting)

    def stored(self) -> list[str]:
        """Read all notes, sorted, while it is closed."""
        return sql(self._url, 'SELECT note FROM notes ORDER BY note COLLATE "C"')

    def gate(self) -> Gate:
        """Make a gate that holds its operations up."""
        return ServerGate()
