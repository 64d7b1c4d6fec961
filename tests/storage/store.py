"""A database whose operations run while the test waits, without a loop of its own."""

import asyncio
import sqlite3
from abc import ABC, abstractmethod
from itertools import count
from typing import Any, TypeVar

from sqlalchemy import text

from protocol.cursor import END, Cursor
from protocol.server_frames import Complete, Timing
from storage import sessions, turns
from storage.claims import Claim
from storage.migrations import apply_missing
from storage.operations import Operation
from storage.postgres import open_postgres
from storage.sqlite import prepare_writing, run_batch, run_snapshot
from storage.tables import metadata
from storage.times import utc_now
from storage.turns import NewTurn, StoredTurn, TurnEnd

T = TypeVar("T")
_TIMING = Timing(queue_ms=0, first_token_ms=5, duration_ms=20)


class Store(ABC):
    """Runs operations on one connection, and holds conversations with them."""

    def __init__(self) -> None:
        self._names = count(1)

    @abstractmethod
    def write(self, operation: Operation[T]) -> T:
        """Run an operation and commit it; raise what it raises."""

    @abstractmethod
    def read(self, operation: Operation[T]) -> T:
        """Run an operation that only selects."""

    @abstractmethod
    def tables(self) -> dict[str, Any]:
        """All tables by name, with what defines them."""

    def migrate(self) -> list[str]:
        """Bring the database up to date."""
        return self.write(apply_missing())

    def rows(self, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """Look into the tables."""
        return [tuple(row) for row in self.read(_run(sql, parameters))]

    def execute(self, sql: str, **parameters: Any) -> None:
        """Change the tables behind the back of the code."""
        self.write(_run(sql, parameters))

    def session(self, session_id: str = "s1") -> str:
        """Begin a session."""
        self.write(sessions.create(session_id, {}))
        return session_id

    def ask(
        self, message: str | None = "안녕", session_id: str = "s1", **options: Any
    ) -> StoredTurn:
        """Begin a turn; message None and `replaces` ask again."""
        return self.write(turns.accept(self.new_turn(message, session_id, **options)))

    def new_turn(
        self, message: str | None = "안녕", session_id: str = "s1", **options: Any
    ) -> NewTurn:
        """Make up a request; its messages are called q1, r1, q2, r2 and so on."""
        number = next(self._names)
        given = {
            "claim": Claim(session_id),
            "replaces": None,
            "request_id": None,
            "fingerprint": f"{message} {options.get('replaces')}",
            "generation": {"max_new_tokens": 128},
            "status": "running",
            "user_message_id": f"q{number}",
            "reply_message_id": f"r{number}",
        }
        return NewTurn(message=message, **{**given, **options})

    def end(self, turn: StoredTurn, text: str = "안녕하세요!", **options: Any) -> bool:
        """End a turn; False if this attempt of it was not open."""
        return self.write(turns.end(turn, turn_end(turn, text, **options)))

    def exchange(
        self, question: str | None = "안녕", reply: str = "안녕하세요!", **options: Any
    ) -> StoredTurn:
        """Hold a whole turn."""
        turn = self.ask(question, **options)
        assert self.end(turn, reply)
        return turn


class SqliteStore(Store):
    """A database in memory, or what a connection leads to."""

    def __init__(self, connection: sqlite3.Connection | None = None) -> None:
        super().__init__()
        self.connection = connection or sqlite3.connect(":memory:", isolation_level=None)
        prepare_writing(self.connection)

    def write(self, operation: Operation[T]) -> T:
        """Run an operation and commit it; raise what it raises."""
        [outcome] = run_batch(self.connection, [operation])
        if isinstance(outcome, BaseException):
            raise outcome
        result: T = outcome
        return result

    def read(self, operation: Operation[T]) -> T:
        """Run an operation that only selects."""
        return run_snapshot(self.connection, operation)

    def tables(self) -> dict[str, Any]:
        """All tables by name, with what defines them."""
        return dict(self.rows("SELECT name, sql FROM sqlite_master WHERE type = 'table'"))

    def close(self) -> None:
        """Forget it."""
        self.connection.close()


class PostgresStore(Store):
    """A database of PostgreSQL, on a loop that runs only while an operation does."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._opened = open_postgres(url, connections=1)
        self._database = self._runner.run(self._opened.__aenter__())

    def write(self, operation: Operation[T]) -> T:
        """Run an operation and commit it; raise what it raises."""
        return self._runner.run(self._database.write(operation))

    def read(self, operation: Operation[T]) -> T:
        """Run an operation that only selects."""
        return self._runner.run(self._database.read(operation))

    def tables(self) -> dict[str, Any]:
        """All tables by name, with what defines them."""
        found: dict[str, Any] = {}
        for name, *column in self.rows(
            "SELECT table_name, column_name, data_type, column_default, is_nullable"
            " FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2"
        ):
            found.setdefault(name, []).append(column)
        return found

    def empty(self) -> None:
        """Remove all rows; the tables stay."""
        names = ", ".join(
            table.name for table in metadata.sorted_tables if table.name != "migrations"
        )
        self.execute(f"TRUNCATE {names}")
        self._names = count(1)

    def close(self) -> None:
        """Close the database and the loop."""
        with self._runner:
            self._runner.run(self._opened.__aexit__(None, None, None))


def _run(sql: str, parameters: dict[str, Any]) -> Operation[list[Any]]:
    return list((yield text(sql), parameters))


def turn_end(turn: StoredTurn, text: str, **options: Any) -> TurnEnd:
    """How a turn ended: well, unless told otherwise."""
    now = utc_now()
    event = Complete(
        id=str(Cursor(turn.turn, turn.attempt, END)),
        turn=turn.turn,
        message_id=turn.reply_message_id,
        finish_reason="stop",
        total_tokens=len(text.split()),
        token_usage=options.get("usage"),
        created_at=now,
        timing=_TIMING,
    )
    given = {
        "status": "complete",
        "finish_reason": "stop",
        "text": text,
        "total_tokens": len(text.split()),
        "usage": None,
        "ended_at": now,
        "event": event.frame(),
    }
    return TurnEnd(**{**given, **options})
