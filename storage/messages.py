"""The history: messages by turn, the newest page first."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import and_, bindparam, func, or_, select, tuple_

from protocol.cursor import BEGINNING, END, Cursor
from protocol.errors import ErrorCode, Refusal
from protocol.server_frames import FinishReason, StoredMessage
from storage import sessions
from storage.claims import Claim
from storage.objects import read_object
from storage.operations import Operation, Row
from storage.tables import QUESTION, REPLY, STRAY, message_order, messages, turns

DEFAULT_MESSAGES = 100
_FRAMING_BYTES = 512
"""More than all fields of a message but its content take as JSON."""

# As much as an `INTEGER` of PostgreSQL holds.
_ALL_TURNS = 2**31 - 1
_ALL_POSITIONS = 2**31 - 1

_PLACE = tuple_(message_order.c.turn, message_order.c.position)
_UP_TO = tuple_(bindparam("last_turn"), bindparam("last_position"))
_BEFORE = tuple_(bindparam("before_turn"), bindparam("before_position"))
# Hidden at a place of the log are the turns that a turn up to that place has replaced.
_ACTIVE = or_(turns.c.replaced_by.is_(None), turns.c.replaced_by > bindparam("last_turn"))
_ROWS = (
    message_order.join(messages, messages.c.message_id == message_order.c.message_id)
).outerjoin(
    turns,
    and_(
        turns.c.session_id == message_order.c.session_id,
        turns.c.turn == message_order.c.turn,
        message_order.c.position < STRAY,
    ),
)
_HERE = (message_order.c.session_id == bindparam("of_session"), _PLACE <= _UP_TO)
_COLUMNS = (
    messages,
    message_order.c.turn,
    message_order.c.position,
    turns.c.finish_reason,
    turns.c.replaced_by,
)
_ANY_PAGE = (
    select(*_COLUMNS)
    .select_from(_ROWS)
    .where(*_HERE, _PLACE < _BEFORE)
    .order_by(message_order.c.turn.desc(), message_order.c.position.desc())
    .limit(bindparam("most"))
)
_ACTIVE_PAGE = _ANY_PAGE.where(_ACTIVE)
_COUNT = select(func.count().label("messages")).select_from(_ROWS).where(*_HERE, _ACTIVE)
_FIND = select(message_order.c.turn, message_order.c.position).where(
    message_order.c.session_id == bindparam("of_session"),
    message_order.c.message_id == bindparam("of_message"),
)
_REPLY_OF = (
    select(messages, turns.c.finish_reason)
    .select_from(turns)
    .join(messages, messages.c.message_id == turns.c.reply_message_id)
    .where(turns.c.session_id == bindparam("of_session"), turns.c.turn == bindparam("of_turn"))
)
_NEWEST = (
    select(turns.c.turn, turns.c.attempt, turns.c.ended_at)
    .where(turns.c.session_id == bindparam("of_session"))
    .order_by(turns.c.turn.desc())
    .limit(1)
)


@dataclass(frozen=True)
class Page:
    """Messages, oldest first; `cursor` is the place in the log that the page shows."""

    messages: list[StoredMessage]
    total_count: int
    next_before: str | None
    cursor: Cursor


def page(
    claim: Claim,
    *,
    limit: int | None,
    before: str | None,
    max_bytes: int,
    upto: Cursor | None = None,
    include_replaced: bool = False,
) -> Operation[Page]:
    """Read the newest messages, or those before a message, as they stand at a cursor.

    `upto` None is the end of the log. A page ends early at `max_bytes` of JSON, but holds at
    least one message. Raises `Refusal`: `session_not_found`, `message_not_found`.
    """
    yield from sessions.require(claim)
    session_id = claim.session_id
    cursor = upto or (yield from _newest(session_id))
    place = {
        "of_session": session_id,
        "last_turn": cursor.turn if upto else _ALL_TURNS,
        "last_position": QUESTION if upto and not cursor.ended else _ALL_POSITIONS,
    }
    most = limit or DEFAULT_MESSAGES
    statement = _ANY_PAGE if include_replaced else _ACTIVE_PAGE
    bounds = yield from _bounds(session_id, before)
    rows = yield statement, place | bounds | {"most": most + 1}
    [count] = yield _COUNT, place
    shown = _fitting(rows[:most], max_bytes)
    return Page(
        messages=shown[::-1],
        total_count=count["messages"],
        next_before=shown[-1].message_id if len(shown) < len(rows) else None,
        cursor=cursor,
    )


def reply(claim: Claim, turn: int) -> Operation[StoredMessage | None]:
    """Read the reply of a turn that is over; None where it left none.

    Raises `Refusal` (`session_not_found`).
    """
    yield from sessions.require(claim)
    rows = yield _REPLY_OF, {"of_session": claim.session_id, "of_turn": turn}
    if not rows:
        return None
    return _message(rows[0], turn=turn, finish_reason=rows[0]["finish_reason"])


def _newest(session_id: str) -> Operation[Cursor]:
    rows = yield _NEWEST, {"of_session": session_id}
    if not rows:
        return BEGINNING
    offset = 0 if rows[0]["ended_at"] is None else END
    return Cursor(rows[0]["turn"], rows[0]["attempt"], offset)


def _bounds(session_id: str, before: str | None) -> Operation[dict[str, int]]:
    if before is None:
        return {"before_turn": _ALL_TURNS, "before_position": 0}
    rows = yield _FIND, {"of_session": session_id, "of_message": before}
    if not rows:
        raise Refusal(ErrorCode.MESSAGE_NOT_FOUND)
    return {"before_turn": rows[0]["turn"], "before_position": rows[0]["position"]}


def _fitting(rows: Sequence[Row], max_bytes: int) -> list[StoredMessage]:
    """Take rows, newest first, until they would be too much for one page."""
    shown: list[StoredMessage] = []
    for row in rows:
        content = json.dumps(row["content"], ensure_ascii=False)
        usage = row["token_usage"] or ""
        max_bytes -= len(content.encode()) + len(usage.encode()) + _FRAMING_BYTES
        if shown and max_bytes < 0:
            break
        is_reply = row["position"] == REPLY
        shown.append(
            _message(
                row,
                turn=row["turn"] if row["position"] < STRAY else None,
                finish_reason=row["finish_reason"] if is_reply else None,
                replaced_by=row["replaced_by"],
            )
        )
    return shown


def _message(
    row: Row,
    *,
    turn: int | None,
    finish_reason: FinishReason | None,
    replaced_by: int | None = None,
) -> StoredMessage:
    return StoredMessage(
        message_id=row["message_id"],
        session_id=row["session_id"],
        role=row["role"],
        content=row["content"],
        created_at=row["created_at"],
        token_usage=read_object(row["token_usage"]),
        turn=turn,
        finish_reason=finish_reason,
        replaced_by=replaced_by,
    )
