"""Sessions: one conversation each."""

import json
from collections.abc import Sequence

from sqlalchemy import bindparam, delete, insert, select, update

from protocol.errors import ErrorCode, Refusal
from protocol.rest import Session
from storage.objects import read_object
from storage.operations import Operation, Row
from storage.tables import leases, message_order, messages, sessions, turns
from storage.times import utc_now

_BY_ID = sessions.c.session_id == bindparam("of_session")

_INSERT = insert(sessions)
_SELECT = select(sessions).where(_BY_ID)
_TOUCH = (
    update(sessions)
    .where(_BY_ID)
    .values(last_accessed=bindparam("now"))
    .returning(sessions.c.session_id)
)
# Whoever writes to a session's turns takes its row first, then those of turns, then of leases: on
# a database with many writers nobody waits for somebody who waits for him.
_LOCK = select(sessions.c.session_id).where(_BY_ID)
_HOLD = _LOCK.with_for_update(read=True, key_share=True)
_TO_DELETE = _LOCK.with_for_update()
_IDLE = ~(
    select(turns.c.turn)
    .where(turns.c.session_id == sessions.c.session_id, turns.c.ended_at.is_(None))
    .exists()
)
_UNUSED = (sessions.c.last_accessed < bindparam("before"), _IDLE)
_TO_DELETE_IF_UNUSED = _LOCK.where(*_UNUSED).with_for_update()
# Children before parents: foreign keys are on.
_DELETIONS = tuple(
    delete(table).where(table.c.session_id == bindparam("session_id"))
    for table in (turns, leases, message_order, messages, sessions)
)
_EXPIRED = select(sessions.c.session_id).where(*_UNUSED)


def create(session_id: str, metadata: dict[str, object]) -> Operation[Session]:
    """Begin a session."""
    now = utc_now()
    text = json.dumps(metadata, ensure_ascii=False)
    row = {"session_id": session_id, "created_at": now, "last_accessed": now, "metadata": text}
    yield _INSERT, row
    return Session(session_id=session_id, created_at=now, last_accessed=now, metadata=metadata)


def get(session_id: str) -> Operation[Session]:
    """Read a session; `Refusal` (`session_not_found`) where there is none."""
    rows = yield _SELECT, {"of_session": session_id}
    return _session(_only(rows))


def touch(session_id: str) -> Operation[None]:
    """Note that a session is used; `Refusal` (`session_not_found`) where there is none."""
    _only((yield _TOUCH, {"of_session": session_id, "now": utc_now()}))


def note_use(session_id: str) -> Operation[None]:
    """Note that a session is used, if there is such a session."""
    yield _TOUCH, {"of_session": session_id, "now": utc_now()}


def hold(session_id: str) -> Operation[None]:
    """Keep a session, if there is such a session, from being deleted before this is stored."""
    yield _HOLD, {"of_session": session_id}


def remove(session_id: str, *, unused_since: str | None = None) -> Operation[None]:
    """Delete a session and all it holds; `Refusal` (`session_not_found`) where there is none.

    With `unused_since` a session that was used since that time counts as none.
    """
    if unused_since is None:
        _only((yield _TO_DELETE, {"of_session": session_id}))
    else:
        _only((yield _TO_DELETE_IF_UNUSED, {"of_session": session_id, "before": unused_since}))
    for statement in _DELETIONS:
        yield statement, {"session_id": session_id}


def expired(before: str) -> Operation[list[str]]:
    """List sessions without an open turn that nobody has used since a time."""
    rows = yield _EXPIRED, {"before": before}
    return [row["session_id"] for row in rows]


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
