"""Clients that go from node to node, and what each of them saw when.

A client takes any node, as behind a balancer that knows nothing of their health. It leaves when it
has heard nothing for a while, and now and then for no reason at all; it comes back, to whichever
node, with the cursor it has.
"""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from websockets.asyncio.client import ClientConnection

from tests.faults.kept import Kept
from tests.faults.killing import SEED
from tests.faults.load import Session, check
from tests.faults.nodes import Attempt, Deployment, Fault, Node
from tests.faults.testimony import WitnessTab, is_ended
from tests.whole.clients import Json

SILENCE_S = 2.5
"""Nodes under test ping after a second of silence."""

HOP_CHANCE = 0.01
MODEST = "살아 있나요? #sim interval_ms=25 first_token_ms=100#"
ANSWERED_WITHIN_S = 60.0
"""However many nodes die meanwhile."""

ALL_HEARD_WITHIN_S = 30.0


@dataclass(frozen=True)
class Sighting:
    """That somebody who had been on a node since `joined_at` was shown the start of an attempt."""

    attempt: Attempt
    at: float
    node: Node
    joined_at: float


class RoamingTab(WitnessTab):
    """A tab that is on some node at any time."""

    open_within_s = SILENCE_S
    close_within_s = 0.2

    def __init__(
        self, here: Deployment, sightings: list[Sighting], *, name: str, hops: bool, **options: Any
    ) -> None:
        super().__init__("", here.testimony, dice=Random(f"{SEED}-{name}"), **options)
        self._here = here
        self._sightings = sightings
        self._chance = HOP_CHANCE if hops else 0.0
        self._node = here.nodes[0]
        self._joined_at = 0.0

    async def took(self, frame: Json) -> None:
        await super().took(frame)
        now = time.monotonic()
        assert self.session_id is not None
        match frame:
            case {"type": "ready"}:
                self._joined_at = now
            case {"type": "start", "turn": turn, "attempt": number}:
                attempt = (self.session_id, turn, number)
                self._sightings.append(Sighting(attempt, now, self._node, self._joined_at))
        self._limit.reschedule(asyncio.get_running_loop().time() + SILENCE_S)
        if self._dice.random() < self._chance:
            raise ConnectionAbortedError("elsewhere it may be nicer")

    def _address(self) -> str:
        self._node = self._dice.choice(self._here.nodes)
        self._url = self._node.socket_url
        return super()._address()

    async def _talk(self, socket: ClientConnection) -> None:
        async with asyncio.timeout(SILENCE_S) as self._limit:
            await super()._talk(socket)


@dataclass
class Crowd:
    """Sessions, each with a tab that asks and one that looks on.

    It goes on until every session has asked `turns` questions and `enough` is set.
    """

    here: Deployment
    turns: int
    question: str = MODEST
    sessions: list[Session] = field(default_factory=list)
    sightings: list[Sighting] = field(default_factory=list)
    enough: asyncio.Event = field(default_factory=asyncio.Event)

    async def chat_through(self, sessions: int, trouble: Coroutine[Any, Any, None]) -> Kept:
        """Chat while there is trouble, then in peace; return what is stored when all is over."""
        began = time.monotonic()
        self.sessions = [Session(f"session{index}") for index in range(sessions)]
        async with asyncio.TaskGroup() as tasks:
            for session in self.sessions:
                tasks.create_task(self._chat(session))
            await trouble
            self.enough.set()
        kept = await self.here.kept()
        print(self._figures(kept, time.monotonic() - began))
        for session in self.sessions:
            check(session, kept)
        await self.here.nothing_is_left_open()
        return kept

    async def _chat(self, session: Session) -> None:
        async with self._tab(session, "asks", hops=True) as tab:
            await tab.until(lambda: tab.session_id is not None)
            assert tab.session_id is not None
            session.session_id = tab.session_id
            async with self._tab(session, "looks on", session_id=tab.session_id) as other:
                await other.until(lambda: other.log.cursor is not None)
                while len(session.asked) < self.turns or not self.enough.is_set():
                    request_id, question = session.next_question(self.question)
                    async with asyncio.timeout(ANSWERED_WITHIN_S):
                        await tab.ask(question, request_id=request_id)
                async with asyncio.timeout(ALL_HEARD_WITHIN_S):
                    last = len(session.asked)
                    await other.until(lambda: is_ended(other.log.turns.get(last)))

    def _tab(
        self, session: Session, what: str, *, hops: bool = False, session_id: str | None = None
    ) -> RoamingTab:
        return RoamingTab(
            self.here,
            self.sightings,
            name=f"{session.name} {what}",
            hops=hops,
            session_id=session_id,
            log=session.log(),
        )

    def _figures(self, kept: Kept, took_s: float) -> str:
        again = [turn for turn in kept.turns if turn.attempt > 1]
        interrupted = [turn for turn in kept.turns if turn.status == "interrupted"]
        return (
            f"{len(self.here.faults)} faults, {len(kept.turns)} turns, {len(again)} taken up "
            f"again, {len(interrupted)} of them interrupted, {self.here.fenced()} fenced, "
            f"{self.here.testimony.counts['ready']} connections, "
            f"{sum(self.here.testimony.counts.values())} events, {took_s:.1f} s"
        )


def only_faults_make_attempts(kept: Kept, faults: Sequence[Fault]) -> None:
    """See that a turn was begun again only when a node that ran it was at fault."""
    for turn in kept.turns:
        place = (turn.session_id, turn.turn)
        reasons = [fault for fault in faults if any(it[:2] == place for it in fault.held)]
        assert turn.attempt - 1 <= len(reasons), f"{turn} was begun again, by {reasons}"


def take_up_times(
    faults: Sequence[Fault], sightings: Sequence[Sighting], *, kind: str
) -> list[float]:
    """How long it took from each fault of a kind until a client on another node saw a turn go on.

    Only nodes that were well all the time bear witness.
    """

    def bears_witness(sighting: Sighting, at: float) -> bool:
        since = sighting.joined_at
        unwell = (other.at for other in faults if other.node is sighting.node)
        return since < at < sighting.at and not any(since < o < sighting.at for o in unwell)

    times = []
    for fault in faults:
        for session_id, turn, attempt in fault.held if fault.kind == kind else ():
            after = [
                sighting.at - fault.at
                for sighting in sightings
                if sighting.attempt[:2] == (session_id, turn)
                and sighting.attempt[2] > attempt
                and bears_witness(sighting, fault.at)
            ]
            times += [min(after)] if after else []
    return times


def distribution(times: Sequence[float]) -> str:
    """Say a list of times in a line."""
    if not times:
        return "none"
    ordered = sorted(times)
    parts = (ordered[round(share * (len(ordered) - 1))] for share in (0, 0.5, 0.9, 1))
    low, median, most, high = (f"{part:.1f}" for part in parts)
    return f"{len(ordered)}: {low} least, {median} median, {most} p90, {high} most (seconds)"
