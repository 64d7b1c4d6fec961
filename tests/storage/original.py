"""A database as the original backend leaves it."""

import json
import sqlite3
from typing import Any

from protocol.cursor import BEGINNING
from storage import log, messages
from storage.claims import Claim
from storage.messages import Page
from storage.migrations import MIGRATIONS
from tests.storage.store import SqliteStore

ORIGINAL = """
CREATE TABLE sessions (
    session_id TEXT PRIMARY KEY,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    last_accessed TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    metadata TEXT
);
CREATE TABLE messages (
    message_id TEXT PRIMARY KEY,
    session_id TEXT,
    role TEXT CHECK(role IN ('user', 'assistant', 'system')),
    content TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    token_usage TEXT,
    FOREIGN KEY (session_id) REFERENCES sessions (session_id)
);
"""
SESSION_AT = "2026-11-23T11:11:49.723604"
_UNSET = object()


class Original(SqliteStore):
    """A database as the original backend left it; `adopt` brings it up to date."""

    def __init__(self, connection: sqlite3.Connection | None = None) -> None:
        super().__init__(connection)
        # The original never turned foreign keys on.
        self.connection.execute("PRAGMA foreign_keys = OFF")
        self.connection.executescript(ORIGINAL)
        self.has_session("s1")

    def has_session(
        self, session_id: str, *, at: Any = SESSION_AT, metadata: Any = '{"user": "지혜"}'
    ) -> None:
        """Store a session."""
        self.connection.execute(
            "INSERT INTO sessions VALUES (?, ?, ?, ?)", (session_id, at, at, metadata)
        )

    def said(
        self,
        role: str,
        content: Any = None,
        *,
        message_id: str | None = None,
        at: Any = _UNSET,
        usage: Any = None,
        session_id: str = "s1",
    ) -> str:
        """Store a message, a minute after the one before; its content is its id by default."""
        [[number]] = self.rows("SELECT count(*) FROM messages")
        name = message_id or f"{role[0]}{number}"
        when = f"2026-11-23T12:{number:02}:00.909775" if at is _UNSET else at
        self.connection.execute(
            "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?)",
            (name, session_id, role, name if content is None else content, when, usage),
        )
        return name

    def adopt(self) -> None:
        """Bring the database up to date."""
        assert self.migrate() == list(MIGRATIONS)
        self.connection.execute("PRAGMA foreign_keys = ON")
        assert self.rows("PRAGMA foreign_key_check") == []

    def places(self) -> list[tuple[str, int, int]]:
        """All messages in the order of the history, with turn and position."""
        return self.rows(
            "SELECT message_id, turn, position FROM message_order ORDER BY turn, position"
        )

    def page(self, session_id: str = "s1") -> Page:
        """The whole history."""
        return self.read(messages.page(Claim(session_id), limit=None, before=None, max_bytes=2**20))

    def log(self) -> list[dict[str, Any]]:
        """The whole log of the session `s1`."""
        frames = self.read(log.read_after(Claim("s1"), BEGINNING))
        return [json.loads(frame.text) for frame in frames]
