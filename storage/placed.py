"""Messages in their places: the parts of statements that read a history, and what a row becomes."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import and_, bindparam, func, or_, select, tuple_

from protocol.cursor import BEGINNING, END, Cursor
from protocol.errors import ErrorCode, Refusal
from protocol.server_frames import StoredMessage
from storage.objects import read_object
from storage.operations import Operation, Row
from storage.tables import QUESTION, REPLY, STRAY, message_order, messages, turns

_FRAMING_BYTES = 512
"""More than all fields of a message but its content take as JSON."""

# As much as an `INTEGER` of PostgreSQL holds.
_MOST = 2**31 - 1


class Place(NamedTuple):
    """Where a message stands in its session; places sort as messages are shown."""

    turn: int
    position: int

    def bound(self, name: str) -> dict[str, int]:
        """The parameters of a `place(name)`."""
        return {f"{name}_turn": self.turn, f"{name}_position": self.position}

    @property
    def next(self) -> "Place":
        """The place behind it."""
        return self._replace(position=min(self.position + 1, _MOST))

    @classmethod
    def of(cls, row: Row) -> "Place":
        """Where a row of `COLUMNS` stands."""
        return cls(row["turn"], row["position"])

    @classmethod
    def last_at(cls, cursor: Cursor) -> "Place":
        """Where the last message stands that shows at a cursor: of an open turn, its question."""
        return cls(cursor.turn, _MOST if cursor.ended else QUESTION)


FIRST = Place(-1, 0)
"""Before all messages."""

LAST = Place(_MOST, _MOST)
"""Behind all messages."""

PLACE = tuple_(message_order.c.turn, message_order.c.position)
UP_TO = tuple_(bindparam("last_turn"), bindparam("last_position"))
BEFORE = tuple_(bindparam("before_turn"), bindparam("before_position"))
AFTER = tuple_(bindparam("after_turn"), bindparam("after_position"))
# Hidden at a place of the log are the turns that a turn up to that place has replaced.
ACTIVE = or_(turns.c.replaced_by.is_(None), turns.c.replaced_by > bindparam("last_turn"))
_OF_TURN = and_(
    turns.c.session_id == message_order.c.session_id,
    turns.c.turn == message_order.c.turn,
    message_order.c.position < STRAY,
)
_SAID = message_order.join(messages, messages.c.message_id == message_order.c.message_id)
OF_SESSION = message_order.c.session_id == bindparam("of_session")
COLUMNS = (
    messages,
    message_order.c.turn,
    message_order.c.position,
    turns.c.finish_reason,
    turns.c.replaced_by,
)

# One upper bound: of two, SQLite would seek by the one and step over all that is behind the other.
# What holds for messages is said of turns too: PostgreSQL, which likes to merge the two, would
# begin with the session's first turn, or its last.
OLDER = (
    select(*COLUMNS)
    .select_from(_SAID.outerjoin(turns, and_(_OF_TURN, turns.c.turn <= bindparam("before_turn"))))
    .where(OF_SESSION, PLACE < BEFORE)
    .order_by(message_order.c.turn.desc(), message_order.c.position.desc())
    .limit(bindparam("most"))
)
OLDER_ACTIVE = OLDER.where(ACTIVE)
NEWER = (
    select(*COLUMNS)
    .select_from(_SAID.outerjoin(turns, and_(_OF_TURN, turns.c.turn >= bindparam("after_turn"))))
    .where(OF_SESSION, PLACE > AFTER, PLACE <= UP_TO)
    .order_by(message_order.c.turn, message_order.c.position)
    .limit(bindparam("most"))
)
NEWER_ACTIVE = NEWER.where(ACTIVE)

# Without the messages themselves, which are most of what there is to read.
_COUNT = (
    select(func.count().label("messages"))
    .select_from(message_order.outerjoin(turns, _OF_TURN))
    .where(OF_SESSION, PLACE <= UP_TO, ACTIVE)
)
_FIND = select(message_order.c.turn, message_order.c.position).where(
    OF_SESSION,
    message_order.c.message_id == bindparam("of_message"),
)
_NEWEST = (
    select(turns.c.turn, turns.c.attempt, turns.c.ended_at)
    .where(turns.c.session_id == bindparam("of_session"))
    .order_by(turns.c.turn.desc())
    .limit(1)
)


def newest(session_id: str) -> Operation[Cursor]:
    """Find the end of a session's log; of an open turn, its beginning."""
    rows = yield _NEWEST, {"of_session": session_id}
    if not rows:
        return BEGINNING
    offset = 0 if rows[0]["ended_at"] is None else END
    return Cursor(rows[0]["turn"], rows[0]["attempt"], offset)


def count_active(session_id: str, last: Place = LAST) -> Operation[int]:
    """Count the messages up to a place that are not hidden there."""
    [row] = yield _COUNT, {"of_session": session_id} | last.bound("last")
    count: int = row["messages"]
    return count


def place_before(session_id: str, message_id: str | None) -> Operation[Place]:
    """Find where a message stands, None for the end; `Refusal` (`message_not_found`)."""
    if message_id is None:
        return LAST
    rows = yield _FIND, {"of_session": session_id, "of_message": message_id}
    if not rows:
        raise Refusal(ErrorCode.MESSAGE_NOT_FOUND)
    return Place.of(rows[0])


def fitting(rows: Sequence[Row], max_bytes: int) -> list[StoredMessage]:
    """Take rows, in their order, until they would be too much for one page; at least one."""
    shown: list[StoredMessage] = []
    for row in rows:
        content = json.dumps(row["content"], ensure_ascii=False)
        usage = row["token_usage"] or ""
        max_bytes -= len(content.encode()) + len(usage.encode()) + _FRAMING_BYTES
        if shown and max_bytes < 0:
            break
        shown.append(message_of(row))
    return shown


def message_of(row: Row, *, last_turn: int = LAST.turn) -> StoredMessage:
    """Read a row of `COLUMNS`; what a turn behind `last_turn` has replaced is not replaced yet."""
    replaced_by = row["replaced_by"]
    return StoredMessage(
        message_id=row["message_id"],
        session_id=row["session_id"],
        role=row["role"],
        content=row["content"],
        created_at=row["created_at"],
        token_usage=read_object(row["token_usage"]),
        turn=row["turn"] if row["position"] < STRAY else None,
        finish_reason=row["finish_reason"] if row["position"] == REPLY else None,
        replaced_by=replaced_by if replaced_by is not None and replaced_by <= last_turn else None,
    )
