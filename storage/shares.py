"""Shares: how many turns may be open at once on one account, so that nobody takes all there is."""

from dataclasses import dataclass

from sqlalchemy import and_, bindparam, case, delete, func, insert, select

from protocol.errors import ErrorCode, Refusal
from storage.locks import ALONE
from storage.operations import Operation
from storage.tables import shares, turns


@dataclass(frozen=True)
class Share:
    """What one account may have at once; None is as much as it likes.

    `most_open` counts turns that wait for the model or are answered, `most_queued` those that wait.
    """

    account: str
    most_open: int | None
    most_queued: int | None


_COUNT = (
    select(
        func.count().label("open"),
        func.count(case((turns.c.status == "queued", 1))).label("queued"),
    )
    .select_from(shares)
    .join(turns, and_(turns.c.session_id == shares.c.session_id, turns.c.turn == shares.c.turn))
    .where(shares.c.account == bindparam("of_account"))
)
_TAKE = insert(shares)
_GIVE_BACK = delete(shares).where(
    shares.c.session_id == bindparam("of_session"), shares.c.turn == bindparam("of_turn")
)


def take(share: Share, session_id: str, turn: int, *, waits: bool) -> Operation[None]:
    """Put a turn on an account; `Refusal` (`rate_limited`) if that has too many open already."""
    # Two at once on a database with many writers would both find room for one.
    yield ALONE, {"name": share.account}
    [count] = yield _COUNT, {"of_account": share.account}
    if share.most_open is not None and count["open"] >= share.most_open:
        raise _full(count["open"], "open")
    if waits and share.most_queued is not None and count["queued"] >= share.most_queued:
        raise _full(count["queued"], "waiting for the model")
    yield _TAKE, {"session_id": session_id, "turn": turn, "account": share.account}


def give_back(session_id: str, turn: int) -> Operation[None]:
    """Take a turn that is over off its account, if it was on one."""
    yield _GIVE_BACK, {"of_session": session_id, "of_turn": turn}


def _full(count: int, what: str) -> Refusal:
    text = f"You have {count} messages {what}, which is the most; wait for a reply or cancel one."
    return Refusal(ErrorCode.RATE_LIMITED, text)
