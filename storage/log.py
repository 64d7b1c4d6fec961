"""The stored part of a session's log: turns that are over, and where a cursor stands in it."""

from dataclasses import dataclass

from sqlalchemy import bindparam, func, select

from protocol.cursor import BEGINNING, END, Cursor
from protocol.server_frames import (
    MAX_EVENT_CHARS,
    Frame,
    Start,
    TurnStatus,
    UserMessage,
    token_frames,
)
from storage import sessions
from storage.claims import Claim
from storage.operations import Operation, Row
from storage.tables import messages, turns

PAGE_TURNS = 100
"""A cursor more turns behind than this is not resumed: the client loads the history instead."""

_READ_TURNS = 10
_READ_CHARS = 4 * MAX_EVENT_CHARS
"""A reader holds what it has read until its peer takes it: this much, and one message."""

_SESSION = turns.c.session_id == bindparam("of_session")
_USER = messages.alias("user_message")
_REPLY = messages.alias("reply_message")
_AFTER = (
    select(
        turns,
        _USER.c.content.label("question"),
        _USER.c.created_at.label("asked_at"),
        _REPLY.c.content.label("reply"),
    )
    .join(_USER, _USER.c.message_id == turns.c.user_message_id)
    .outerjoin(_REPLY, _REPLY.c.message_id == turns.c.reply_message_id)
    .where(_SESSION, turns.c.turn >= bindparam("of_turn"))
    .order_by(turns.c.turn)
    .limit(_READ_TURNS)
)
_PLACES = (
    select(
        turns.c.turn,
        turns.c.attempt,
        turns.c.status,
        turns.c.ended_at,
        func.length(_REPLY.c.content).label("chars"),
    )
    .outerjoin(_REPLY, _REPLY.c.message_id == turns.c.reply_message_id)
    .where(_SESSION)
)
_LAST_TWO = _PLACES.order_by(turns.c.turn.desc()).limit(2)
_AT = _PLACES.where(turns.c.turn == bindparam("of_turn"))


@dataclass(frozen=True)
class Joined:
    """Where a connection starts to read; `open_status` is None if no turn is open.

    `at_end` is whether nothing that is over follows the cursor.
    """

    cursor: Cursor
    resumed: bool
    at_end: bool
    open_turn: int | None
    open_status: TurnStatus | None


def read_after(claim: Claim, cursor: Cursor) -> Operation[list[Frame]]:
    """Read what follows a cursor, up to the first turn that is not over; a part of it at once.

    Raises `Refusal` (`session_not_found`), also once the session is deleted.
    """
    # An event stream joins before it watches; deleted in between, the broker had nobody to tell.
    yield from sessions.require(claim)
    first = cursor.turn + 1 if cursor.ended else cursor.turn
    rows = yield _AFTER, {"of_session": claim.session_id, "of_turn": first}
    frames: list[Frame] = []
    chars = 0
    for row in rows:
        if row["ended_at"] is None:
            break
        told = _frames(row, cursor)
        frames += told
        chars += len(row["question"]) + len(row["reply"] or "")
        if told[-1].type == "token" or chars >= _READ_CHARS:
            break
    return frames


def join(claim: Claim, after: str | None) -> Operation[Joined]:
    """Find where a connection starts: at its cursor if that is honoured, else at the end.

    The end lies before an open turn, so that the turn is delivered from its `start`.
    Raises `Refusal` (`session_not_found`).
    """
    yield from sessions.require(claim)
    rows = yield _LAST_TWO, {"of_session": claim.session_id}
    newest = rows[0] if rows else None
    is_open = newest is not None and newest["ended_at"] is None
    before = rows[1:2] if is_open else rows[:1]
    end = _end_of(before[0]) if before else BEGINNING
    wanted = Cursor.parse(after) if after is not None else None
    honoured = (yield from _honoured(claim.session_id, wanted, newest)) if wanted else None
    return Joined(
        cursor=honoured or end,
        resumed=honoured is not None,
        at_end=honoured in (None, end),
        open_turn=newest["turn"] if newest is not None and is_open else None,
        open_status=newest["status"] if newest is not None and is_open else None,
    )


def joined_new(after: str | None) -> Joined:
    """Say what `join` would find in a session that has only just been created."""
    resumed = after is not None and Cursor.parse(after) == BEGINNING
    return Joined(BEGINNING, resumed, at_end=True, open_turn=None, open_status=None)


def _honoured(session_id: str, wanted: Cursor, newest: Row | None) -> Operation[Cursor | None]:
    last = newest["turn"] if newest is not None else 0
    if wanted.turn > last or last - wanted.turn > PAGE_TURNS:
        return None
    if wanted.turn == 0:
        return wanted if wanted == BEGINNING else None
    [row] = yield _AT, {"of_session": session_id, "of_turn": wanted.turn}
    if 1 <= wanted.attempt < row["attempt"]:
        # Whatever was seen of an older attempt is void; the latest one's `start` comes next.
        return wanted._replace(offset=0)
    return wanted if wanted.attempt == row["attempt"] and _has(row, wanted.offset) else None


def _has(row: Row, offset: int) -> bool:
    """Whether a turn's reply has such a place, or, while it grows, may come to have it."""
    if row["ended_at"] is None:
        return offset != END
    return offset == END or offset <= (row["chars"] or 0)


def _end_of(row: Row) -> Cursor:
    return Cursor(row["turn"], row["attempt"], END)


def _frames(row: Row, cursor: Cursor) -> list[Frame]:
    """Tell a turn from a cursor on: to its end, or as much of its text as is read at once."""
    turn, attempt = row["turn"], row["attempt"]
    # A question of the original may have no reply at all.
    text = row["reply"] or ""
    within = (turn, attempt) == (cursor.turn, cursor.attempt) and not cursor.ended
    frames = [] if within else [_start(row).frame()]
    behind = cursor.offset if within else 0
    upto = min(behind + _READ_CHARS, len(text))
    # How the count grew is not stored: each part of the text has its share.
    since, count = (row["total_tokens"] * at // max(len(text), 1) for at in (behind, upto))
    frames += token_frames(Cursor(turn, attempt, upto), text[behind:upto], count, since=since)
    if upto < len(text):
        return frames
    ending = "complete" if row["status"] in ("complete", "cancelled") else "error"
    return [*frames, Frame(ending, _end_of(row), row["ending"])]


def _start(row: Row) -> Start:
    return Start(
        id=str(Cursor(row["turn"], row["attempt"], 0)),
        turn=row["turn"],
        attempt=row["attempt"],
        message_id=row["reply_message_id"],
        user_message=UserMessage(
            message_id=row["user_message_id"],
            content=row["question"],
            created_at=row["asked_at"],
        ),
        request_id=row["request_id"],
        replaces=row["replaces"],
    )
