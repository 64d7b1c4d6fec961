"""Leases: which node runs an open turn, where many nodes share a database.

A node keeps the leases of its turns by renewing them. One that is dead, frozen or cut off does not,
and then any other may make the next attempt. Time is the database's. That a node has lost a lease
it may not know for a while; what keeps it from doing harm is the attempt in each of its writes.
"""

from dataclasses import dataclass

from sqlalchemy import bindparam, delete, insert, select, update

from storage.clock import database_now
from storage.operations import Operation
from storage.tables import leases, turns

LEASE_S = 6.0
NOBODY = ""

_OF_TURN = (
    leases.c.session_id == bindparam("of_session"),
    leases.c.turn == bindparam("of_turn"),
)
_FROM_NOW_ON = database_now() + bindparam("lease_s", type_=leases.c.expires_at.type)
_TAKE = insert(leases).values(
    session_id=bindparam("of_session"),
    turn=bindparam("of_turn"),
    attempt=bindparam("of_attempt"),
    node=bindparam("on_node"),
    expires_at=_FROM_NOW_ON,
)
_TAKE_OVER = (
    update(leases)
    .where(*_OF_TURN)
    .values(attempt=bindparam("of_attempt"), node=bindparam("on_node"), expires_at=_FROM_NOW_ON)
    .returning(leases.c.stop, leases.c.handed_over)
)
_RENEW = (
    update(leases)
    .where(leases.c.node == bindparam("on_node"))
    .values(expires_at=_FROM_NOW_ON)
    .returning(leases.c.session_id, leases.c.turn, leases.c.attempt, leases.c.stop)
)
_LET_GO = (
    update(leases)
    .where(*_OF_TURN, leases.c.attempt == bindparam("of_attempt"))
    # Nobody's from now on: its node, which may live on for a while, does not renew it any more.
    .values(node=NOBODY, expires_at=0.0, handed_over=leases.c.handed_over + 1)
)
_END = delete(leases).where(*_OF_TURN).returning(leases.c.stop)
_STOP = update(leases).values(stop=bindparam("why")).returning(leases.c.turn)
_STOP_OPEN = _STOP.where(leases.c.session_id == bindparam("of_session"))
_STOP_TURN = _STOP.where(*_OF_TURN)

_ITS_LEASE = select(leases.c.turn).where(
    leases.c.session_id == turns.c.session_id, leases.c.turn == turns.c.turn
)
KEPT = _ITS_LEASE.where(leases.c.expires_at >= database_now()).exists()
"""That somebody keeps the lease of a turn."""

HELD = _ITS_LEASE.where(leases.c.node != NOBODY).exists()
"""That somebody has the lease of a turn, kept or lapsed."""


class StopAsked(Exception):
    """Somebody on another node was told that the turn stops: it cannot end in another way."""


@dataclass(frozen=True)
class Legacy:
    """What a turn brings along from the attempts before: why it is to stop, if it is.

    `handed_over` counts those of them that were left to others on purpose.
    """

    stop: str | None = None
    handed_over: int = 0


NO_LEGACY = Legacy()


@dataclass(frozen=True)
class Lease:
    """A turn that a node runs, and why it is to stop, if somebody wants it to."""

    session_id: str
    turn: int
    attempt: int
    stop: str | None


def take(session_id: str, turn: int, *, attempt: int, node: str) -> Operation[Legacy]:
    """Make an attempt a node's, whoever's the attempt before it was."""
    whose = _of(session_id, turn, attempt) | {"on_node": node, "lease_s": LEASE_S}
    if attempt > 1 and (rows := (yield _TAKE_OVER, whose)):
        return Legacy(rows[0]["stop"], rows[0]["handed_over"])
    yield _TAKE, whose
    return NO_LEGACY


def renew(node: str) -> Operation[list[Lease]]:
    """Renew all leases of a node and return them: what is missing there is not its own any more."""
    rows = yield _RENEW, {"on_node": node, "lease_s": LEASE_S}
    return [Lease(row["session_id"], row["turn"], row["attempt"], row["stop"]) for row in rows]


def let_go(session_id: str, turn: int, *, attempt: int) -> Operation[None]:
    """Let any node make the next attempt at once."""
    yield _LET_GO, _of(session_id, turn, attempt)


def end(session_id: str, turn: int, *, stopped: bool) -> Operation[None]:
    """Note that nobody runs a turn any more; `stopped` tells whether it heeded a wish to stop.

    Raises `StopAsked` if there is such a wish, and it did not.
    """
    rows = yield _END, {"of_session": session_id, "of_turn": turn}
    if rows and rows[0]["stop"] is not None and not stopped:
        raise StopAsked


def ask_to_stop(session_id: str, turn: int | None, *, why: str) -> Operation[int | None]:
    """Ask whoever runs a session's open turn to stop it; return its number.

    None if no turn is open, or it is not `turn`.
    """
    if turn is None:
        rows = yield _STOP_OPEN, {"of_session": session_id, "why": why}
    else:
        rows = yield _STOP_TURN, {"of_session": session_id, "of_turn": turn, "why": why}
    number: int | None = rows[0]["turn"] if rows else None
    return number


def _of(session_id: str, turn: int, attempt: int) -> dict[str, object]:
    return {"of_session": session_id, "of_turn": turn, "of_attempt": attempt}
