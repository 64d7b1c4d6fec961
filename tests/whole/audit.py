"""What a session must look like from outside: on every tab, and in the database afterwards."""

import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tests.whole.clients import Json, Log

MAX_EVENT_CHARS = 16_384
END = float("inf")

Place = tuple[int, int, float]


def place(cursor: str) -> Place:
    """Read a cursor, which no client does: `7.1.57`, and `7.1.end` behind all of it."""
    found = re.fullmatch(r"(\d+)\.(\d+)\.(\d+|end)", cursor)
    assert found is not None, cursor
    turn, attempt, offset = found.groups()
    return int(turn), int(attempt), END if offset == "end" else int(offset)


class StrictLog(Log):
    """A log that takes no event twice and none out of order, across all its connections."""

    def __init__(self) -> None:
        super().__init__()
        self.events = 0

    async def fold(self, event: Json) -> None:
        if "id" in event:
            self._check(event, place(event["id"]))
            self.events += 1
        await super().fold(event)

    def _check(self, event: Json, here: Place) -> None:
        before = place(self.cursor) if self.cursor else (0, 0, END)
        assert here > before, f"{event['id']} came after {self.cursor}"
        turn, attempt, offset = here
        assert event["turn"] == turn
        if event["type"] == "start":
            assert event["attempt"] == attempt
            assert offset == 0
            assert self.cursor is None or turn - before[0] in (0, 1), "a turn is missing"
            return
        assert here[:2] == before[:2], f"{event['id']} without its start, after {self.cursor}"
        if event["type"] == "token":
            assert 0 < len(event["content"]) <= MAX_EVENT_CHARS
            assert offset == before[2] + len(event["content"]), "characters are missing"


@dataclass(frozen=True)
class StoredTurn:
    """A turn as the file has it."""

    session_id: str
    turn: int
    attempt: int
    request_id: str | None
    status: str
    question: str
    reply: str | None


_TURNS = """
SELECT t.session_id, t.turn, t.attempt, t.request_id, t.status, q.content, r.content
FROM turns t JOIN messages q ON q.message_id = t.user_message_id
LEFT JOIN messages r ON r.message_id = t.reply_message_id
ORDER BY t.session_id, t.turn
"""


def stored_turns(database: Path) -> list[StoredTurn]:
    """Read all turns with a connection of our own, and see that the file is sound."""
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        return [StoredTurn(*row) for row in connection.execute(_TURNS)]
