"""Migrations: each applied once, in order; a file is brought up to date whole or not at all.

The second one adopts a database of the original backend: its conversations get turns, and its
times, which were local and had no zone, become UTC. Run it where the original ran, or with `TZ`
set to that zone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import bindparam, insert, select, text, update
from sqlalchemy.schema import CreateIndex, CreateTable

from protocol.cursor import END, Cursor
from protocol.errors import CATALOGUE, ErrorCode
from protocol.server_frames import Complete, Error, Timing
from protocol.text import count_words, storable
from storage.database import Database
from storage.locks import MIGRATE_ALONE
from storage.objects import read_object
from storage.operations import Operation, Row
from storage.tables import (
    QUESTION,
    REPLY,
    STRAY,
    message_order,
    messages,
    metadata,
    migrations,
    sessions,
    turns,
)
from storage.times import from_original, utc_now

_UNKNOWN = Timing(queue_ms=None, first_token_ms=None, duration_ms=None)

_APPLIED = select(migrations.c.name)
_NOTE = insert(migrations)
_SOME_SESSIONS = (
    select(sessions.c.session_id, sessions.c.created_at, sessions.c.last_accessed)
    .where(sessions.c.session_id > bindparam("behind"))
    .order_by(sessions.c.session_id)
    .limit(1_000)
)
_SET_TIMES = (
    update(sessions)
    .where(sessions.c.session_id == bindparam("of_session"))
    .values(created_at=bindparam("created"), last_accessed=bindparam("accessed"))
)
_MESSAGES_OF = (
    select(messages)
    .where(messages.c.session_id == bindparam("of_session"))
    # The original ordered by time alone; rows of one instant keep the order they were stored in.
    .order_by(messages.c.created_at, text("messages.rowid"))
)
_REWRITE = (
    update(messages)
    .where(messages.c.message_id == bindparam("of_message"))
    .values(content=bindparam("new_content"), created_at=bindparam("new_created_at"))
)
_INSERT_TURN = insert(turns)
_INSERT_ORDER = insert(message_order)


async def migrate(database: Database) -> list[str]:
    """Bring a database up to date; return the names of the migrations that were applied.

    Raises `StorageError`; the database is as it was then.
    """
    return await database.write(apply_missing())


def apply_missing() -> Operation[list[str]]:
    """Apply the migrations that a database lacks; return their names."""
    yield MIGRATE_ALONE, {}
    yield CreateTable(migrations, if_not_exists=True), {}
    applied = {row["name"] for row in (yield _APPLIED, {})}
    missing = [name for name in MIGRATIONS if name not in applied]
    for name in missing:
        yield from MIGRATIONS[name]()
        yield _NOTE, {"name": name, "applied_at": utc_now()}
    return missing


def _create_tables() -> Operation[None]:
    for table in metadata.sorted_tables:
        yield CreateTable(table, if_not_exists=True), {}
        for index in table.indexes:
            yield CreateIndex(index, if_not_exists=True), {}


def _adopt_original() -> Operation[None]:
    now = utc_now()
    behind = ""
    while found := (yield _SOME_SESSIONS, {"behind": behind}):
        for session in found:
            yield from _adopt_session(session, now)
        behind = found[-1]["session_id"]


def _adopt_session(session: Row, now: str) -> Operation[None]:
    session_id = session["session_id"]
    times = {
        "created": from_original(session["created_at"], otherwise=now),
        "accessed": from_original(session["last_accessed"], otherwise=now),
    }
    yield _SET_TIMES, {"of_session": session_id} | times
    rows = yield _MESSAGES_OF, {"of_session": session_id}
    said = [Said.of(row, now) for row in rows]
    for message in said:
        yield (
            _REWRITE,
            {
                "of_message": message.message_id,
                "new_content": message.content,
                "new_created_at": message.created_at,
            },
        )
    yield from _adopt_messages(session_id, said)


def _adopt_messages(session_id: str, said: "Sequence[Said]") -> Operation[None]:
    for adopted in as_turns(said):
        if adopted.question is not None:
            yield _INSERT_TURN, _turn_row(session_id, adopted, adopted.question)
        for message, position in adopted.places():
            place = {"message_id": message.message_id, "session_id": session_id}
            yield _INSERT_ORDER, place | {"turn": adopted.turn, "position": position}


@dataclass(frozen=True)
class Said:
    """A message of the original as the log takes it: storable text, a time in UTC."""

    message_id: str
    role: str
    content: str
    created_at: str
    token_usage: dict[str, int] | None

    @classmethod
    def of(cls, row: Row, now: str) -> "Said":
        """Read a stored message; `now` stands for a time that cannot be read."""
        usage = read_object(row["token_usage"]) or {}
        return cls(
            message_id=row["message_id"],
            role=row["role"],
            # SQLite counts no character behind a NUL, and text that is no UTF-8 not as we do:
            # offsets would not mean the same everywhere.
            content=storable(row["content"] or ""),
            created_at=from_original(row["created_at"], otherwise=now),
            token_usage={name: n for name, n in usage.items() if type(n) is int} or None,
        )


@dataclass
class Adopted:
    """A turn of the original: a question, its reply if there is one, and what else came.

    Turn 0 has no question: it holds what was said before the first one.
    """

    turn: int
    question: Said | None = None
    reply: Said | None = None
    strays: list[Said] = field(default_factory=list)

    def places(self) -> list[tuple[Said, int]]:
        """List the messages with their positions."""
        own = [(self.question, QUESTION), (self.reply, REPLY)]
        strays = [(stray, STRAY + index) for index, stray in enumerate(self.strays)]
        return [(said, position) for said, position in own if said is not None] + strays


def as_turns(messages: Sequence[Said]) -> list[Adopted]:
    """Sort the messages of one session into turns: each user message opens one.

    The next assistant message is its reply; anything else is shown but belongs to no turn.
    """
    adopted = [Adopted(turn=0)]
    for said in messages:
        current = adopted[-1]
        if said.role == "user":
            adopted.append(Adopted(turn=current.turn + 1, question=said))
        elif said.role == "assistant" and current.question is not None and not current.reply:
            current.reply = said
        else:
            current.strays.append(said)
    return adopted


def _turn_row(session_id: str, adopted: Adopted, question: Said) -> dict[str, object]:
    reply = adopted.reply
    row: dict[str, object] = {column.name: None for column in turns.c}
    ended_at = (reply or question).created_at
    return row | {
        "session_id": session_id,
        "turn": adopted.turn,
        "attempt": 1,
        "status": "complete" if reply else "interrupted",
        "user_message_id": question.message_id,
        # A question without a reply keeps none: the name leads nowhere.
        "reply_message_id": reply.message_id if reply else f"{question.message_id}-none",
        "generation": "{}",
        "finish_reason": "stop" if reply else "interrupted",
        # The original stored no count of pieces.
        "total_tokens": count_words(reply.content) if reply else 0,
        "ending": _ending(adopted.turn, reply),
        "created_at": question.created_at,
        "ended_at": ended_at,
    }


def _ending(turn: int, reply: Said | None) -> str:
    end = str(Cursor(turn, 1, END))
    if reply is None:
        kind = CATALOGUE[ErrorCode.INTERRUPTED]
        return Error(
            id=end,
            turn=turn,
            code=ErrorCode.INTERRUPTED,
            message=kind.message,
            retryable=kind.retryable,
        ).model_dump_json()
    return Complete(
        id=end,
        turn=turn,
        message_id=reply.message_id,
        finish_reason="stop",
        total_tokens=count_words(reply.content),
        token_usage=reply.token_usage,
        created_at=reply.created_at,
        timing=_UNKNOWN,
    ).model_dump_json()


def _create_missing() -> Operation[None]:
    # Once more all tables: those that are there already stay as they are.
    yield from _create_tables()


MIGRATIONS: dict[str, Callable[[], Operation[None]]] = {
    "create_tables": _create_tables,
    "adopt_original": _adopt_original,
    "create_leases": _create_missing,
    "create_owners": _create_missing,
}
FIRST = next(iter(MIGRATIONS))
