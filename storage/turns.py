"""Turns: a user message and its reply, from the moment they are accepted to their end."""

import json
from dataclasses import dataclass, replace

from sqlalchemy import Text, and_, bindparam, insert, select, update

from protocol.errors import ErrorCode, Refusal
from protocol.lifecycle import after
from protocol.server_frames import FinishReason, Frame, TurnStatus, UserMessage
from storage import leases, sessions, shares
from storage.claims import Claim
from storage.leases import HELD, KEPT, NO_LEGACY, Legacy
from storage.operations import Operation, Row
from storage.shares import Share
from storage.tables import OPEN, QUESTION, REPLY, message_order, messages, owners, turns
from storage.tables import shares as shares_table
from storage.times import utc_now


@dataclass(frozen=True)
class NewTurn:
    """What is to become a turn.

    `message` None asks the question of turn `replaces` again; `replaces` 0 is the last
    turn. `fingerprint` tells a repeat of the request from another one with the same `request_id`.
    `node` is who is to run it, where there are many; `share` on whose account, if that is limited.
    """

    claim: Claim
    message: str | None
    replaces: int | None
    request_id: str | None
    fingerprint: str | None
    generation: dict[str, object]
    status: TurnStatus
    user_message_id: str
    reply_message_id: str
    node: str | None = None
    share: Share | None = None


@dataclass(frozen=True)
class StoredTurn:
    """A turn as it was accepted, or as it was found after whoever ran it died.

    `owner` is whose session it is, `account` on which one it is counted while it is open; `node` is
    who holds its lease, where there are many.
    """

    session_id: str
    turn: int
    attempt: int
    status: TurnStatus
    user_message: UserMessage
    reply_message_id: str
    request_id: str | None
    replaces: int | None
    generation: dict[str, object]
    created_at: str
    owner: str | None = None
    account: str | None = None
    checkpoint: str = ""
    duplicate: bool = False
    node: str | None = None
    legacy: Legacy = NO_LEGACY


@dataclass(frozen=True)
class TurnEnd:
    """What is stored when a turn ends; `event` is the terminal event."""

    status: TurnStatus
    finish_reason: FinishReason
    text: str
    total_tokens: int
    usage: dict[str, int] | None
    ended_at: str
    event: Frame


_SESSION = turns.c.session_id == bindparam("of_session")
_TURN = turns.c.turn == bindparam("of_turn")
_USER = messages.alias("user_message")
_REPLY = messages.alias("reply_message")

_SELECT = (
    select(
        turns,
        _USER.c.content,
        _USER.c.created_at.label("asked_at"),
        owners.c.owner,
        shares_table.c.account,
    )
    .join(_USER, _USER.c.message_id == turns.c.user_message_id)
    .outerjoin(owners, owners.c.session_id == turns.c.session_id)
    .outerjoin(
        shares_table,
        and_(shares_table.c.session_id == turns.c.session_id, shares_table.c.turn == turns.c.turn),
    )
)
_BY_REQUEST = _SELECT.where(
    _SESSION,
    owners.c.owner.is_not_distinct_from(bindparam("of_owner", type_=Text)),
    turns.c.request_id == bindparam("of_request"),
)
_SOME_OPEN = _SELECT.where(OPEN).order_by(turns.c.session_id).limit(bindparam("most"))
_LAPSED = _SOME_OPEN.where(~KEPT)
_LEFT = _SOME_OPEN.where(~HELD)
# A turn that is open is the last one: none is accepted behind it.
_LAST = (
    select(turns.c.turn, turns.c.ended_at).where(_SESSION).order_by(turns.c.turn.desc()).limit(1)
)
_REPLACEABLE = _SELECT.where(_SESSION, _TURN, turns.c.replaced_by.is_(None))
_HIDE = (
    update(turns)
    .where(_SESSION, turns.c.turn >= bindparam("of_turn"), turns.c.replaced_by.is_(None))
    .values(replaced_by=bindparam("by"))
)
_INSERT_MESSAGE = insert(messages)
_INSERT_ORDER = insert(message_order)
_INSERT_TURN = insert(turns)
_NO_TURN = dict.fromkeys(turns.c.keys())

_THIS_ATTEMPT = (_SESSION, _TURN, turns.c.attempt == bindparam("of_attempt"), OPEN)
_CHECKPOINT = (
    update(turns)
    .where(*_THIS_ATTEMPT)
    .values(checkpoint=bindparam("text"), status=bindparam("now_status"))
)
_TAKE_UP = (
    update(turns)
    .where(*_THIS_ATTEMPT, ~KEPT)
    .values(attempt=bindparam("next_attempt"), status=bindparam("now_status"))
    .returning(turns.c.turn)
)
_END = (
    update(turns)
    .where(*_THIS_ATTEMPT)
    .values(
        status=bindparam("end_status"),
        finish_reason=bindparam("reason"),
        total_tokens=bindparam("tokens"),
        ending=bindparam("event"),
        ended_at=bindparam("now"),
        checkpoint=None,
    )
    .returning(turns.c.reply_message_id)
)
_STATUS = select(turns.c.status).where(_SESSION, _TURN)
_ENDING = select(turns.c.ending).where(_SESSION, _TURN, turns.c.attempt == bindparam("of_attempt"))


def accept(new: NewTurn) -> Operation[StoredTurn]:
    """Store a user message as the session's next turn, or find the turn it already is.

    Raises `Refusal`: `session_not_found`, `request_id_conflict`, `turn_in_progress`,
    `turn_not_found`, `rate_limited`; nothing is stored then.
    """
    yield from sessions.touch(new.claim)
    if repeat := (yield from find_repeat(new)):
        return repeat
    here = {"of_session": new.claim.session_id}
    rows = yield _LAST, here
    if rows and rows[0]["ended_at"] is None:
        raise Refusal(ErrorCode.TURN_IN_PROGRESS)
    last = rows[0]["turn"] if rows else 0
    replaces, question = yield from _resolve(new, last)
    if new.share is not None:
        waits = new.status == "queued"
        yield from shares.take(new.share, new.claim.session_id, last + 1, waits=waits)
    if replaces is not None:
        yield _HIDE, here | {"of_turn": replaces, "by": last + 1}
    return (yield from _insert(new, last + 1, question, replaces))


def find_repeat(new: NewTurn) -> Operation[StoredTurn | None]:
    """Find the turn that a request already is; `Refusal` (`request_id_conflict`)."""
    if new.request_id is None:
        return None
    rows = yield _BY_REQUEST, new.claim.bound | {"of_request": new.request_id}
    if not rows:
        return None
    if rows[0]["fingerprint"] != new.fingerprint:
        raise Refusal(ErrorCode.REQUEST_ID_CONFLICT)
    return _stored(rows[0], duplicate=True)


def checkpoint(turn: StoredTurn, text: str) -> Operation[None]:
    """Keep what an open turn has become, and its text, so that a crash loses little of it."""
    yield _CHECKPOINT, _attempt(turn) | {"text": text, "now_status": turn.status}


def leave(turn: StoredTurn, text: str) -> Operation[None]:
    """Keep an open turn and its text for whoever makes the next attempt, which may be at once."""
    yield from checkpoint(turn, text)
    yield from leases.let_go(turn.session_id, turn.turn, attempt=turn.attempt)


def end(turn: StoredTurn, how: TurnEnd) -> Operation[bool]:
    """Store a reply and the terminal event that tells of it.

    Returns False, and stores nothing, if this attempt of the turn is not open any more; to end it
    again in the very same way is to have ended it. Raises `StopAsked`.
    """
    outcome = {
        "end_status": how.status,
        "reason": how.finish_reason,
        "tokens": how.total_tokens,
        "event": how.event.text,
        "now": how.ended_at,
    }
    yield from sessions.hold(turn.session_id)
    if not (yield _END, _attempt(turn) | outcome):
        rows = yield _ENDING, _attempt(turn)
        return bool(rows) and rows[0]["ending"] == how.event.text
    if turn.node is not None:
        stopped = how.status == "cancelled"
        yield from leases.end(turn.session_id, turn.turn, stopped=stopped)
    if turn.account is not None:
        yield from shares.give_back(turn.session_id, turn.turn)
    yield (
        _INSERT_MESSAGE,
        {
            "message_id": turn.reply_message_id,
            "session_id": turn.session_id,
            "role": "assistant",
            "content": how.text,
            "created_at": how.ended_at,
            "token_usage": json.dumps(how.usage) if how.usage else None,
        },
    )
    yield _INSERT_ORDER, _place(turn.reply_message_id, turn.session_id, turn.turn, REPLY)
    return True


def is_cancelled(session_id: str, turn: int) -> Operation[bool]:
    """Tell whether a turn is over because somebody stopped it."""
    rows = yield _STATUS, {"of_session": session_id, "of_turn": turn}
    return bool(rows) and rows[0]["status"] == "cancelled"


def lapsed(*, most: int) -> Operation[list[StoredTurn]]:
    """List open turns that nobody runs: whoever did has died, or does not keep its lease."""
    rows = yield _LAPSED, {"most": most}
    return [_stored(row) for row in rows]


def left(*, most: int) -> Operation[list[StoredTurn]]:
    """List open turns that whoever ran them has left to others on purpose."""
    rows = yield _LEFT, {"most": most}
    return [_stored(row) for row in rows]


def take_up(turn: StoredTurn, *, node: str | None = None) -> Operation[StoredTurn | None]:
    """Make a lapsed turn its next attempt, on a node where there are many, and return that.

    None if somebody else already did, or runs it after all.
    """
    attempt, status = turn.attempt + 1, after(turn.status, "take_up")
    now = {"next_attempt": attempt, "now_status": status}
    yield from sessions.hold(turn.session_id)
    if not (yield _TAKE_UP, _attempt(turn) | now):
        return None
    legacy = NO_LEGACY
    if node is not None:
        legacy = yield from leases.take(turn.session_id, turn.turn, attempt=attempt, node=node)
    return replace(turn, attempt=attempt, status=status, node=node, legacy=legacy)


def _resolve(new: NewTurn, last: int) -> Operation[tuple[int | None, str]]:
    """Find which turn is replaced, and the question to ask."""
    if new.replaces is None:
        assert new.message is not None, "only a replacement may lack a message"  # noqa: S101
        return None, new.message
    # The last turn is never hidden: only a later one could hide it.
    place = {"of_session": new.claim.session_id, "of_turn": new.replaces or last}
    rows = yield _REPLACEABLE, place
    if not rows:
        raise Refusal(ErrorCode.TURN_NOT_FOUND)
    question = rows[0]["content"] if new.message is None else new.message
    if not question.strip():
        raise Refusal(ErrorCode.BAD_FRAME, "message: the question to ask again is blank")
    return rows[0]["turn"], question


def _insert(new: NewTurn, turn: int, question: str, replaces: int | None) -> Operation[StoredTurn]:
    now = utc_now()
    session_id = new.claim.session_id
    yield (
        _INSERT_MESSAGE,
        {
            "message_id": new.user_message_id,
            "session_id": session_id,
            "role": "user",
            "content": question,
            "created_at": now,
            "token_usage": None,
        },
    )
    yield _INSERT_ORDER, _place(new.user_message_id, session_id, turn, QUESTION)
    row = _NO_TURN | {
        "session_id": session_id,
        "turn": turn,
        "attempt": 1,
        "total_tokens": 0,
        "status": new.status,
        "request_id": new.request_id,
        "fingerprint": new.fingerprint,
        "replaces": replaces,
        "user_message_id": new.user_message_id,
        "reply_message_id": new.reply_message_id,
        "generation": json.dumps(new.generation),
        "created_at": now,
    }
    yield _INSERT_TURN, row
    if new.node is not None:
        yield from leases.take(session_id, turn, attempt=1, node=new.node)
    whose = {"owner": new.claim.owner, "account": new.share.account if new.share else None}
    asked = {"content": question, "asked_at": now}
    return replace(_stored(row | whose | asked), node=new.node)


def _place(message_id: str, session_id: str, turn: int, position: int) -> dict[str, object]:
    place = {"message_id": message_id, "session_id": session_id}
    return place | {"turn": turn, "position": position}


def _attempt(turn: StoredTurn) -> dict[str, object]:
    return {
        "of_session": turn.session_id,
        "of_turn": turn.turn,
        "of_attempt": turn.attempt,
    }


def _stored(row: Row, *, duplicate: bool = False) -> StoredTurn:
    return StoredTurn(
        session_id=row["session_id"],
        turn=row["turn"],
        attempt=row["attempt"],
        status=row["status"],
        user_message=UserMessage(
            message_id=row["user_message_id"], content=row["content"], created_at=row["asked_at"]
        ),
        reply_message_id=row["reply_message_id"],
        request_id=row["request_id"],
        replaces=row["replaces"],
        generation=json.loads(row["generation"]),
        created_at=row["created_at"],
        owner=row["owner"],
        account=row["account"],
        checkpoint=row["checkpoint"] or "",
        duplicate=duplicate,
    )
