"""What is done to a turn in one visit to the database, and what is read there along with it."""

from gateway.run import Opened
from llm.prompt import ContextLimits
from storage import leases, sessions, turns
from storage.claims import Claim
from storage.context import context
from storage.operations import Operation
from storage.turns import NewTurn, StoredTurn


def ask_to_stop(claim: Claim, turn: int | None, *, stopping: bool) -> Operation[int | None]:
    """Store that a turn is to stop; with `stopping` it may have been stored already that it did.

    Raises `Refusal` (`session_not_found`).
    """
    yield from sessions.require(claim)
    number = yield from leases.ask_to_stop(claim.session_id, turn, why="cancelled")
    if number is None and stopping and turn is not None:
        return turn if (yield from turns.is_cancelled(claim.session_id, turn)) else None
    return number


def accept(new: NewTurn, limits: ContextLimits) -> Operation[Opened]:
    """Store a request as a turn, or find the turn it already is; raises `Refusal`."""
    turn = yield from turns.accept(new)
    return (yield from _opened(turn, limits))


def take_up(turn: StoredTurn, limits: ContextLimits, node: str | None) -> Operation[Opened | None]:
    """Make a lapsed turn its next attempt; None if another node was quicker."""
    taken = yield from turns.take_up(turn, node=node)
    return (yield from _opened(taken, limits)) if taken else None


def _opened(turn: StoredTurn, limits: ContextLimits) -> Operation[Opened]:
    """Read what was said before a turn in the same visit to the database."""
    before = yield from context(
        turn.session_id, turn.turn, most=limits.max_exchanges, max_chars=limits.max_chars
    )
    return Opened(turn, before)
