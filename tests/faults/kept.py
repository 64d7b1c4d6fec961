"""What a gateway that has died left in its file, and whether that is all it had promised."""

import json
import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from llm.simulator.script import pieces_of
from tests.faults.testimony import Promise
from tests.whole.clients import Json, Log, Turn

LABEL = "[모의 응답] "
"""How every simulated reply to a question in Korean begins."""

_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name = 'turns'"
TURNS = """
SELECT t.session_id, t.turn, t.attempt, t.request_id, t.status, t.user_message_id,
       t.reply_message_id, t.total_tokens, t.checkpoint, t.ending, q.content, r.content
FROM turns t JOIN messages q ON q.message_id = t.user_message_id
LEFT JOIN messages r ON r.message_id = t.reply_message_id
ORDER BY t.session_id, t.turn
"""


@dataclass(frozen=True)
class KeptTurn:
    """A turn as the file has it."""

    session_id: str
    turn: int
    attempt: int
    request_id: str | None
    status: str
    user_message_id: str
    reply_message_id: str
    total_tokens: int
    checkpoint: str | None
    ending: str | None
    question: str
    reply: str | None

    @property
    def is_open(self) -> bool:
        """Whether the next start will take it up."""
        return self.status in ("queued", "running")


class Kept:
    """The sessions and turns of a file."""

    def __init__(self, sessions: set[str], turns: list[KeptTurn]) -> None:
        self.turns = turns
        self._sessions = sessions
        self._by_number = {(turn.session_id, turn.turn): turn for turn in turns}
        self._by_request = {(turn.session_id, turn.request_id): turn for turn in turns}
        assert len(self._by_request) == len(turns), "a request became two turns"

    @classmethod
    def read(cls, database: Path) -> "Kept":
        """Read a copy of the file, so that its recovery is left to the next gateway."""
        with TemporaryDirectory() as directory:
            copy = Path(directory) / "copy.db"
            for suffix in ("", "-wal"):
                if (original := Path(f"{database}{suffix}")).exists():
                    shutil.copyfile(original, f"{copy}{suffix}")
            with closing(sqlite3.connect(copy)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
                if not connection.execute(_TABLES).fetchall():
                    return cls(set(), [])  # it died before its first migration was committed
                sessions = connection.execute("SELECT session_id FROM sessions").fetchall()
                turns = [KeptTurn(*row) for row in connection.execute(TURNS)]
        return cls({session_id for (session_id,) in sessions}, turns)

    def of_session(self, session_id: str) -> list[KeptTurn]:
        """All turns of a session in order."""
        return [turn for turn in self.turns if turn.session_id == session_id]

    def confirm(self, promises: Iterable[Promise]) -> None:
        """See that everything that clients were told is here."""
        for session_id, frame in promises:
            assert session_id in self._sessions, frame
            if frame["type"] != "ready":
                _confirm(self._find(session_id, frame), frame)

    def _find(self, session_id: str, frame: Json) -> KeptTurn:
        if frame["type"] in ("complete", "error"):
            turn = self._by_number.get((session_id, frame["turn"]))
        else:
            turn = self._by_request.get((session_id, frame["request_id"]))
        assert turn is not None, f"lost: {frame}"
        return turn


def _confirm(turn: KeptTurn, frame: Json) -> None:
    match frame:
        case {"type": "accepted"}:
            assert turn.turn == frame["turn"]
        case {"type": "start"}:
            asked = frame["user_message"]
            assert turn.turn == frame["turn"]
            assert turn.attempt >= frame["attempt"], f"announced and not stored: {frame}"
            assert turn.reply_message_id == frame["message_id"]
            assert (turn.user_message_id, turn.question) == (asked["message_id"], asked["content"])
        case {"type": "complete" | "error"}:
            assert turn.ending == as_sent(frame)
        case {"type": "reply"}:
            assert turn.reply_message_id == frame["message_id"]
            assert turn.reply == frame["content"]


def as_sent(frame: Json) -> str:
    """The text of a frame as it came: the order of its fields is still there."""
    return json.dumps(frame, ensure_ascii=False, separators=(",", ":"))


def confirm_ended(turn: KeptTurn) -> None:
    """See that a turn is over, and that its reply is one attempt's and no mixture."""
    assert not turn.is_open
    assert turn.ending is not None
    assert turn.reply is not None
    assert turn.checkpoint is None
    ending = json.loads(turn.ending)
    assert ending["id"] == f"{turn.turn}.{turn.attempt}.end"
    if ending["type"] == "complete":
        assert turn.status == "complete"
        assert turn.reply.startswith(LABEL)
        assert turn.reply.count(LABEL) == 1
        # Only a stream counts pieces; `/chat` has the tokens of the model.
        streamed = ending["token_usage"] is None
        assert not streamed or turn.total_tokens == len(pieces_of(turn.reply))
    else:
        assert (turn.status, ending["code"]) == ("interrupted", "interrupted")
        assert turn.reply == "" or turn.reply.startswith(LABEL[:1])


def confirm_shown(log: Log, turns: list[KeptTurn]) -> None:
    """See that a client shows the turns of its session as they are stored, each once."""
    assert sorted(log.turns) == [turn.turn for turn in turns]
    for turn in turns:
        shown = log.turns[turn.turn]
        assert shown.question == turn.question
        assert shown.text == turn.reply
        assert _ending(shown) == turn.ending


def _ending(shown: Turn) -> str:
    assert shown.ending is not None
    return as_sent(shown.ending)
