"""Migrations: each applied once, in order, each in a transaction of its own.

The second one adopts a database of the original backend: its conversations get turns, and its
times, which were local and had no zone, become UTC. Run it where the original ran, or with `TZ`
set to that zone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Executable, bindparam, insert, select, text, update
from sqlalchemy.schema import CreateIndex, CreateTable

from protocol.cursor import END, Cursor
from protocol.errors import CATALOGUE, ErrorCode
from protocol.server_frames import Complete, Error, Timing
from protocol.text import count_words
from storage.database import Database
from storage.messages import read_usage
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
_ALL_SESSIONS = select(sessions)
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
_SET_TIME = (
    update(messages)
    .where(messages.c.message_id == bindparam("of_message"))
    .values(created_at=bindparam("created"))
)
_INSERT_TURN = insert(turns)
_INSERT_ORDER = insert(message_order)


async def migrate(database: Database) -> list[str]:
    """Bring a database up to date; return the names of the migrations that were applied."""
    await database.write(_execute(CreateTable(migrations, if_not_exists=True)))
    applied = await database.read(_applied())
    missing = [name for name in _MIGRATIONS if name not in applied]
    for name in missing:
        await database.write(_apply(name))
    return missing


def _applied() -> Operation[set[str]]:
    rows = yield _APPLIED, {}
    return {row["name"] for row in rows}


def _execute(statement: Executable) -> Operation[None]:
    yield statement, {}


def _apply(name: str) -> Operation[None]:
    yield from _MIGRATIONS[name]()
    yield _NOTE, {"name": name, "applied_at": utc_now()}


def _create_tables() -> Operation[None]:
    for table in metadata.sorted_tables:
        yield from _execute(CreateTable(table, if_not_exists=True))
        for index in table.indexes:
            yield from _execute(CreateIndex(index, if_not_exists=True))


def _adopt_original() -> Operation[None]:
    found = yield _ALL_SESSIONS, {}
    for session in found:
        session_id = session["session_id"]
        times = {
            "created": from_original(session["created_at"]),
            "accessed": from_original(session["last_accessed"]),
        }
        yield _SET_TIMES, {"of_session": session_id} | times
        rows = yield _MESSAGES_OF, {"of_session": session_id}
        yield from _adopt_messages(session_id, rows)


def _adopt_messages(session_id: str, rows: Sequence[Row]) -> Operation[None]:
    for row in rows:
        when = {"of_message": row["message_id"], "created": from_original(row["created_at"])}
        yield _SET_TIME, when
    for adopted in as_turns(rows):
        if adopted.question is not None:
            yield _INSERT_TURN, _turn_row(session_id, adopted, adopted.question)
        for message, position in adopted.places():
            place = {"message_id": message["message_id"], "session_id": session_id}
            yield _INSERT_ORDER, place | {"turn": adopted.turn, "position": position}


@dataclass
class Adopted:
    """A turn of the original: a question, its reply if there is one, and what else came.

    Turn 0 has no question: it holds what was said before the first one.
    """

    turn: int
    question: Row | None = None
    reply: Row | None = None
    strays: list[Row] = field(default_factory=list)

    def places(self) -> list[tuple[Row, int]]:
        """List the messages with their positions."""
        own = [(self.question, QUESTION), (self.reply, REPLY)]
        strays = [(stray, STRAY + index) for index, stray in enumerate(self.strays)]
        return [(row, position) for row, position in own if row is not None] + strays


def as_turns(rows: Sequence[Row]) -> list[Adopted]:
    """Sort the messages of one session into turns: each user message opens one.

    The next assistant message is its reply; anything else is shown but belongs to no turn.
    """
    adopted = [Adopted(turn=0)]
    for row in rows:
        current = adopted[-1]
        if row["role"] == "user":
            adopted.append(Adopted(turn=current.turn + 1, question=row))
        elif row["role"] == "assistant" and current.question is not None and not current.reply:
            current.reply = row
        else:
            current.strays.append(row)
    return adopted


def _turn_row(session_id: str, adopted: Adopted, question: Row) -> dict[str, object]:
    reply = adopted.reply
    row: dict[str, object] = {column.name: None for column in turns.c}
    ended_at = from_original((reply or question)["created_at"])
    return row | {
        "session_id": session_id,
        "turn": adopted.turn,
        "attempt": 1,
        "status": "complete" if reply else "interrupted",
        "user_message_id": question["message_id"],
        # A question without a reply keeps none: the name leads nowhere.
        "reply_message_id": reply["message_id"] if reply else f"{question['message_id']}-none",
        "generation": "{}",
        "finish_reason": "stop" if reply else "interrupted",
        "total_tokens": _pieces(reply) if reply else 0,
        "ending": _ending(adopted.turn, reply, ended_at),
        "created_at": from_original(question["created_at"]),
        "ended_at": ended_at,
    }


def _ending(turn: int, reply: Row | None, ended_at: str) -> str:
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
        message_id=reply["message_id"],
        finish_reason="stop",
        total_tokens=_pieces(reply),
        token_usage=read_usage(reply["token_usage"]),
        created_at=ended_at,
        timing=_UNKNOWN,
    ).model_dump_json()


def _pieces(reply: Row) -> int:
    """The original stored no count of pieces."""
    return count_words(reply["content"] or "")


_MIGRATIONS: dict[str, Callable[[], Operation[None]]] = {
    "create_tables": _create_tables,
    "adopt_original": _adopt_original,
}
