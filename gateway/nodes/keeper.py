"""What a node among many does all the time: keep its own turns, take up those of the dead."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from gateway.brokers.base import Broker
from gateway.nodes.away import BrokerAway
from gateway.run import Run
from gateway.turns import Turns
from gateway.waiting import heard
from storage import leases, turns
from storage.database import Database
from storage.leases import LEASE_S, Lease
from storage.operations import StorageError

log = logging.getLogger(__name__)

RENEW_EVERY_S = LEASE_S / 3
STRAY_S = RENEW_EVERY_S
T = TypeVar("T")

_Attempt = tuple[str, int, int]


class Keeper:
    """Renews the leases of this node's turns, and learns from them what became of the turns.

    A lease that is gone was taken over by another node, or its session was deleted. One that says
    stop belongs to a turn that was cancelled on another node. `news` is set by whoever has reason
    to believe that there is something to learn now; without it that takes up to `RENEW_EVERY_S`.
    """

    def __init__(
        self,
        *,
        node: str,
        turns: Turns,
        broker: Broker,
        database: Database,
        news: asyncio.Event,
    ) -> None:
        self._node = node
        self._turns = turns
        self._broker = broker
        self._database = database
        self._news = news
        self._strays: dict[_Attempt, float] = {}
        self._renewed_at: float | None = None
        # Others may be cut off just now, and about to renew.
        self._patient_until = _now() + RENEW_EVERY_S

    async def run(self) -> None:
        """Go on until cancelled."""
        # Each for itself: to take up many turns takes longer than a lease may last.
        await asyncio.gather(self._renew_for_ever(), self._take_up_for_ever())

    async def _renew_for_ever(self) -> None:
        while True:
            self._news.clear()
            await _try(self.renew)
            await heard(self._news, _soon())

    async def _take_up_for_ever(self) -> None:
        while True:
            if not (self._may_take_up() and await _try(self._take_up)):
                await asyncio.sleep(_soon())

    async def _take_up(self) -> bool:
        # What was left on purpose belongs to nobody; what has lapsed may be about to be renewed.
        patient = _now() < self._patient_until
        return await self._turns.take_up(turns.left if patient else turns.lapsed)

    async def renew(self) -> None:
        """Renew the leases and heed what they say; raises `StorageError`."""
        # Before: a turn that begins meanwhile may not be among the leases yet.
        runs = {_attempt(run): run for run in self._turns.runs()}
        held = {
            _key(lease): lease for lease in await self._database.write(leases.renew(self._node))
        }
        self._note_renewal()
        for attempt, run in runs.items():
            lease = held.get(attempt)
            if lease is None:
                run.stop("lost")
            elif lease.stop is not None:
                run.stop("cancelled")
        await self._let_strays_go(held)

    async def _let_strays_go(self, held: dict[_Attempt, Lease]) -> None:
        """Let go of leases that no turn here has belonged to for a while.

        A commit that was never heard of leaves one: the turn is stored, and nobody runs it.
        """
        running = {_attempt(run) for run in self._turns.runs()}
        now = _now()
        self._strays = {stray: self._strays.get(stray, now) for stray in held.keys() - running}
        for (session_id, turn, attempt), since in self._strays.items():
            if now - since >= STRAY_S:
                fields = {"session": session_id, "turn": turn, "attempt": attempt}
                log.warning("a turn is this node's, but not run", extra=fields)
                await self._database.write(leases.let_go(session_id, turn, attempt=attempt))

    def _note_renewal(self) -> None:
        now = _now()
        if self._renewed_at is not None and now - self._renewed_at > LEASE_S / 2:
            # The database was away, or this process stood still. Others may have been cut off as
            # well; they are alive, and get the time to renew.
            self._patient_until = now + LEASE_S
        self._renewed_at = now

    def _may_take_up(self) -> bool:
        return self._broker.ready and not self._turns.draining


def _attempt(run: Run) -> _Attempt:
    return run.turn.session_id, run.turn.turn, run.turn.attempt


def _key(lease: Lease) -> _Attempt:
    return lease.session_id, lease.turn, lease.attempt


async def _try(work: Callable[[], Awaitable[T]]) -> T | None:
    """Do something; whatever goes wrong, the next round is worth a try."""
    try:
        return await work()
    except (StorageError, BrokerAway) as error:
        log.warning("the leases could not be looked after: %s", error or "no broker")
    except Exception:
        log.exception("the leases could not be looked after")
    return None


def _soon() -> float:
    return RENEW_EVERY_S * random.uniform(0.8, 1.0)


def _now() -> float:
    return asyncio.get_running_loop().time()
