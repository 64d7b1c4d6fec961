"""A database in memory whose operations run at once, without a loop or a thread."""

import sqlite3
from itertools import count
from typing import Any, TypeVar

from protocol.cursor import END, Cursor
from protocol.server_frames import Complete, Timing
from storage import sessions, turns
from storage.migrations import apply_missing
from storage.operations import Operation
from storage.sqlite import prepare_writing, run_batch, run_snapshot
from storage.times import utc_now
from storage.turns import NewTurn, StoredTurn, TurnEnd

T = TypeVar("T")
_TIMING = Timing(queue_ms=0, first_token_ms=5, duration_ms=20)


class Store:
    """Runs operations on one connection, and holds conversations with them."""

    def __init__(self, connection: sqlite3.Connection | None = None) -> None:
        self.connection = connection or sqlite3.connect(":memory:", isolation_level=None)
        prepare_writing(self.connection)
        self._names = count(1)

    def migrate(self) -> list[str]:
        """Bring the database up to date."""
        return self.write(apply_missing())

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

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Look into the tables."""
        return [tuple(row) for row in self.connection.execute(sql, parameters)]

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
            "replaces": None,
            "request_id": None,
            "fingerprint": f"{message} {options.get('replaces')}",
            "generation": {"max_new_tokens": 128},
            "status": "running",
            "user_message_id": f"q{number}",
            "reply_message_id": f"r{number}",
        }
        return NewTurn(session_id=session_id, message=message, **{**given, **options})

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
