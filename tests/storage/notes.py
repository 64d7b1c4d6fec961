"""Operations on a table of notes, for tests that do not care what is stored."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

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


class Gate:
    """Holds an operation up in its thread until a test opens it."""

    def __init__(self) -> None:
        self._entered = threading.Event()
        self._opened = threading.Event()

    def add(self, note: str) -> Operation[None]:
        """Store a note in two halves, one before the gate and one behind."""
        yield from add(f"{note} 1")
        self.wait()
        yield from add(f"{note} 2")

    def read_twice(self) -> Operation[tuple[list[str], list[str]]]:
        """Read before the gate and behind it."""
        before = yield from all_notes()
        self.wait()
        return before, (yield from all_notes())

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
