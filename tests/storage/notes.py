"""Operations on a table of notes, for tests that do not care what is stored."""

import sqlite3
import threading
from abc import ABC, abstractmethod
from contextlib import closing
from pathlib import Path

import anyio
import anyio.to_thread
from sqlalchemy import Text, bindparam, column, insert, select, table, text

from storage.operations import Operation

WITHIN_S = 10.0
"""Nothing a test waits for takes that long unless something is broken."""

NOTES = table("notes", column("note", Text))
CREATE = text("CREATE TABLE IF NOT EXISTS notes (note TEXT UNIQUE NOT NULL)")
ADD = insert(NOTES).values(note=bindparam("new_note"))
ALL = select(NOTES.c.note).order_by(NOTES.c.note)


class Mistake(Exception):
    """A mistake in an operation."""


def create() -> Operation[None]:
    """Make the table."""
    yield CREATE, {}


def add(*notes: str) -> Operation[int]:
    """Store notes, each of which there may be once; return how many."""
    for note in notes:
        yield ADD, {"new_note": note}
    return len(notes)


def add_and_fail(note: str, error: BaseException) -> Operation[None]:
    """Store a note, then think better of it."""
    yield from add(note)
    raise error


def all_notes() -> Operation[list[str]]:
    """Read all notes, sorted."""
    rows = yield ALL, {}
    return [row["note"] for row in rows]


def stored(path: Path) -> list[str]:
    """Read all notes from a file that is closed."""
    with closing(sqlite3.connect(path)) as connection:
        return [note for (note,) in connection.execute("SELECT note FROM notes ORDER BY note")]


class Gate(ABC):
    """Holds an operation up until a test opens it."""

    @abstractmethod
    def halt(self) -> Operation[None]:
        """Stand at the gate."""

    @abstractmethod
    async def entered(self) -> None:
        """Wait until an operation stands at the gate."""

    @abstractmethod
    def open(self) -> None:
        """Let it pass."""

    def add(self, note: str) -> Operation[None]:
        """Store a note in two halves, one before the gate and one behind."""
        yield from add(f"{note} 1")
        yield from self.halt()
        yield from add(f"{note} 2")

    def read_twice(self) -> Operation[tuple[list[str], list[str]]]:
        """Read before the gate and behind it."""
        before = yield from all_notes()
        yield from self.halt()
        return before, (yield from all_notes())


class ThreadGate(Gate):
    """Holds an operation up in its thread, on SQLite."""

    def __init__(self) -> None:
        self._entered = threading.Event()
        self._opened = threading.Event()

    def halt(self) -> Operation[None]:
        """Stand at the gate."""
        self.wait()
        yield from ()

    async def entered(self) -> None:
        """Wait until an operation stands at the gate."""
        assert await anyio.to_thread.run_sync(self._entered.wait, WITHIN_S)

    def open(self) -> None:
        """Let it pass."""
        self._opened.set()

    def wait(self) -> None:
        """Stand at the gate, in a thread."""
        self._entered.set()
        assert self._opened.wait(WITHIN_S)


class ServerGate(Gate):
    """Holds an operation up by what it asks of its server, on PostgreSQL."""

    def __init__(self) -> None:
        self._entered = anyio.Event()
        self._opened = False

    def halt(self) -> Operation[None]:
        """Stand at the gate."""
        self._entered.set()
        while not self._opened:
            yield text("SELECT pg_sleep(0.005)"), {}

    async def entered(self) -> None:
        """Wait until an operation stands at the gate."""
        await self._entered.wait()

    def open(self) -> None:
        """Let it pass."""
        self._opened = True
