"""Sessions: one conversation each, and whose it is."""

import json
from collections.abc import Sequence

from sqlalchemy import Text, bindparam, delete, func, insert, select, tuple_, update

from protocol.errors import ErrorCode, Refusal
from protocol.rest import Session, SessionList
from storage.claims import CLAIMED, OWNED, Claim
from storage.locks import ALONE
from storage.objects import read_object
from storage.operations import Operation, Row
from storage.tables import leases, message_order, messages, owners, sessions, shares, turns
from storage.times import utc_now

DEFAULT_SESSIONS = 100
# Not a number: SQLite would make it one beside a column that the original declared TIMESTAMP.
_END_OF_TIME = "9999-12-31"

_BY_ID = sessions.c.session_id == bindparam("of_session")

_INSERT = insert(sessions)
_OWN = insert(owners)
_COUNT_OWNED = select(func.count().label("sessions")).where(owners.c.owner == bindparam("of_owner"))
_SELECT = select(sessions).where(CLAIMED)
_REQUIRE = select(sessions.c.session_id).where(CLAIMED)
_NEWNESS = tuple_(sessions.c.created_at, sessions.c.session_id)
_BEFORE = tuple_(bindparam("before_time", type_=Text), bindparam("before_session", type_=Text))
_LIST = (
    select(sessions)
    .where(_BEFORE > _NEWNESS)
    .order_by(sessions.c.created_at.desc(), sessions.c.session_id.desc())
    .limit(bindparam("most"))
)
# Whoever has a name has few sessions: by the owner, and not one after another of everybody's.
_LIST_NAMED = _LIST.join(owners, owners.c.session_id == sessions.c.session_id).where(
    owners.c.owner == bindparam("of_owner")
)
_LIST_UNNAMED = _LIST.where(OWNED)
_USE = update(sessions).values(last_accessed=bindparam("now")).returning(sessions.c.session_id)
_TOUCH = _USE.where(CLAIMED)
_KEEP = _USE.where(_BY_ID)
_EXISTS = select(sessions.c.session_id).where(_BY_ID)
# Whoever writes to a session's turns takes its row first, then those of turns, then of leases: on
# a database with many writers nobody waits for somebody who waits for him.
_HOLD = _EXISTS.with_for_update(read=True, key_share=True)
_TO_DELETE = select(sessions.c.session_id).where(CLAIMED).with_for_update()
_IDLE = ~(
    select(turns.c.turn)
    .where(turns.c.session_id == sessions.c.session_id, turns.c.ended_at.is_(None))
    .exists()
)
_UNUSED = (sessions.c.last_accessed < bindparam("before"), _IDLE)
_TO_DELETE_IF_UNUSED = _EXISTS.where(*_UNUSED).with_for_update()
# Children before parents: foreign keys are on.
_DELETIONS = tuple(
    delete(table).where(table.c.session_id == bindparam("session_id"))
    for table in (turns, leases, shares, message_order, messages, owners, sessions)
)
_EXPIRED = select(sessions.c.session_id).where(*_UNUSED)


def create(
    session_id: str,
    metadata: dict[str, object],
    *,
    owner: str | None = None,
    most: int | None = None,
) -> Operation[Session]:
    """Begin a session; `Refusal` (`rate_limited`) if its owner has `most` of them already."""
    if owner is not None and most is not None:
        yield from _check_room(owner, most)
    now = utc_now()
    text = json.dumps(metadata, ensure_ascii=False)
    row = {"session_id": session_id, "created_at": now, "last_accessed": now, "metadata": text}
    yield _INSERT, row
    if owner is not None:
        yield _OWN, {"session_id": session_id, "owner": owner}
    return Session(session_id=session_id, created_at=now, last_accessed=now, metadata=metadata)


def get(claim: Claim) -> Operation[Session]:
    """Read a session; `Refusal` (`session_not_found`) where there is none."""
    rows = yield _SELECT, claim.bound
    return _session(_only(rows))


def require(claim: Claim) -> Operation[None]:
    """Go on if there is such a session; else `Refusal` (`session_not_found`)."""
    _only((yield _REQUIRE, claim.bound))


def exists(session_id: str) -> Operation[bool]:
    """Tell whether there is a session, whosever it is."""
    return bool((yield _EXISTS, {"of_session": session_id}))


def owned(owner: str | None, *, limit: int | None, before: str | None) -> Operation[SessionList]:
    """List an owner's sessions, the newest first, or those created before one of them.

    Raises `Refusal` (`session_not_found`) if `before` is not one of them.
    """
    most = limit or DEFAULT_SESSIONS
    place = {"before_time": _END_OF_TIME, "before_session": ""}
    if before is not None:
        newer = yield from get(Claim(before, owner))
        place = {"before_time": newer.created_at, "before_session": before}
    listed = _LIST_UNNAMED if owner is None else _LIST_NAMED
    rows = yield listed, {"of_owner": owner, "most": most + 1} | place
    shown = [_session(row) for row in rows[:most]]
    return SessionList(
        sessions=shown, next_before=shown[-1].session_id if len(rows) > most else None
    )


def touch(claim: Claim) -> Operation[None]:
    """Note that a session is used; `Refusal` (`session_not_found`) where there is none."""
    _only((yield _TOUCH, claim.bound | {"now": utc_now()}))


def note_use(claim: Claim) -> Operation[None]:
    """Note that a session is used, if there is such a session."""
    yield _TOUCH, claim.bound | {"now": utc_now()}


def keep(session_id: str) -> Operation[None]:
    """Note that a session is used, whoever uses it, if there is such a session."""
    yield _KEEP, {"of_session": session_id, "now": utc_now()}


def hold(session_id: str) -> Operation[None]:
    """Keep a session, if there is such a session, from being deleted before this is stored."""
    yield _HOLD, {"of_session": session_id}


def remove(claim: Claim) -> Operation[None]:
    """Delete a session and all it holds; `Refusal` (`session_not_found`) where there is none."""
    _only((yield _TO_DELETE, claim.bound))
    yield from _delete(claim.session_id)


def remove_unused(session_id: str, *, since: str) -> Operation[None]:
    """Delete a session that nobody has used since a time, whosever it is.

    Raises `Refusal` (`session_not_found`) where there is none, or it was used.
    """
    _only((yield _TO_DELETE_IF_UNUSED, {"of_session": session_id, "before": since}))
    yield from _delete(session_id)


def expired(before: str) -> Operation[list[str]]:
    """List sessions without an open turn that nobody has used since a time."""
    rows = yield _EXPIRED, {"before": before}
    return [row["session_id"] for row in rows]


def _check_room(owner: str, most: int) -> Operation[None]:
    # Two at once on a database with many writers would both find room for one.
    yield ALONE, {"name": owner}
    [count] = yield _COUNT_OWNED, {"of_owner": owner}
    if count["sessions"] >= most:
        text = f"You have {count['sessions']} sessions, and {most} is the most; delete one first."
        raise Refusal(ErrorCode.RATE_LIMITED, text)


def _delete(session_id: str) -> Operation[None]:
    for statement in _DELETIONS:
        yield statement, {"session_id": session_id}


def _only(rows: Sequence[Row]) -> Row:
    if not rows:
        raise Refusal(ErrorCode.SESSION_NOT_FOUND)
    return rows[0]


def _session(row: Row) -> Session:
    return Session(
        session_id=row["session_id"],
        created_at=row["created_at"],
        last_accessed=row["last_accessed"],
        metadata=read_object(row["metadata"]) or {},
    )
