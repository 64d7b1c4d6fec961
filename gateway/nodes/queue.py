"""The queue in front of the model server, shared by all nodes.

Redis decides, in one step and by its own time, who may call and who is next. Each node keeps its
places by renewing them: those of a node that died lapse. What Redis forgets, the nodes tell it
again.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count

from gateway.nodes.away import BrokerAway
from gateway.nodes.link import Link
from gateway.nodes.turnstile import Answer, Request, Rules, Standing, channel, turn
from gateway.waiting import heard
from llm.admission import Estimate, Moved, QueueFull

log = logging.getLogger(__name__)

RETRY_S = 0.2
CLOSE_WITHIN_S = 1.0


class SharedPlace:
    """One call's place. Implements `llm.admission.Place`."""

    def __init__(self, queue: "SharedQueue", name: str) -> None:
        self.name = name
        self.ticket = ""
        self.released = False
        self._queue = queue
        self._admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._moved: Moved | None = None
        self._position = 0
        self._told_position = 0
        self._since: float | None = None

    @property
    def waits(self) -> bool:
        return not self._admitted.done()

    async def admitted(self, moved: Moved) -> None:
        if self.waits:
            self._moved = moved
            self._tell()
            await asyncio.shield(self._admitted)

    def call(self) -> None:
        self._since = _now()

    def release(self, *, cool_down_s: float = 0.0) -> None:
        if not self.released:
            self.released = True
            took_s = None if self._since is None else _now() - self._since
            self._queue._release(self, took_s, 0.0 if self.waits else cool_down_s)

    def _admit(self) -> None:
        if self.waits:
            self._admitted.set_result(None)

    def _stand(self, standing: Standing) -> None:
        self.ticket, self._position = standing.ticket, standing.position
        self._tell()

    def _tell(self) -> None:
        if self._moved is not None and self._position != self._told_position:
            self._told_position = self._position
            self._moved(self._position, self._queue._estimate.eta_ms(self._position))


class SharedQueue:
    """Made by `open_shared_queue`. Implements `llm.admission.Admission`.

    While Redis is away nobody is admitted; who calls already goes on.
    """

    def __init__(self, link: Link, rules: Rules) -> None:
        self._link = link
        self._rules = rules
        self._names = count(1)
        self._places: dict[str, SharedPlace] = {}
        self._released: list[tuple[str, int]] = []
        self._estimate = Estimate(rules.max_calls)
        self._epoch = ""
        self._calls = self._waiting = 0
        self._work = asyncio.Event()
        self._renewed_at = _now()
        self._pokes: set[asyncio.TimerHandle] = set()

    @property
    def calls(self) -> int:
        """How many calls there were, on all nodes, when Redis was last asked."""
        return self._calls

    @property
    def waiting(self) -> int:
        """How many waited then."""
        return self._waiting

    async def reserve(self, *, even_if_full: bool = False) -> SharedPlace:
        place = SharedPlace(self, f"{self._link.node}|{next(self._names)}")
        request = Request(reserved=[(place.name, even_if_full)])
        # Among the others already: what admits it may be announced before this is answered.
        self._places[place.name] = place
        try:
            answer = await self._ask(request)
        except BaseException:  # it may have been reserved all the same
            place.release()
            raise
        if place.name in answer.full:
            del self._places[place.name]
            place.released = True
            raise QueueFull(waiting=answer.waiting, retry_after_ms=self._estimate.eta_ms(1))
        return place

    async def run(self) -> None:
        """Renew and release places until cancelled."""
        self._link.subscribe(channel(self._link.prefix, self._link.node), self._hear)
        self._link.when_up(self._renew_soon)
        while True:
            await heard(self._work, self._pause_s())
            self._work.clear()
            try:
                await self._settle()
            except BrokerAway as error:
                log.debug("the queue could not be asked: %s", error)
                await asyncio.sleep(RETRY_S)
                self._work.set()

    async def close(self) -> None:
        """Give back all places that are left."""
        for poke in self._pokes:
            poke.cancel()
        for place in list(self._places.values()):
            place.release()
        with suppress(BrokerAway, TimeoutError):
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await self._settle()

    async def _settle(self) -> None:
        """Tell Redis what was released, and renew the rest if that is due."""
        due = self._pause_s() <= 0
        released, self._released = self._released, []
        if not due and not released:
            return
        try:
            await self._ask(self._renewal(released) if due else Request(released=released))
        except BaseException:
            self._released = released + self._released
            raise
        if due:
            self._renewed_at = _now()

    def _renewal(self, released: list[tuple[str, int]]) -> Request:
        places = self._places.values()
        return Request(
            released=released,
            running=[place.name for place in places if not place.waits],
            # Without a ticket it is being reserved just now.
            waiting=[
                (place.name, place.ticket) for place in places if place.waits and place.ticket
            ],
        )

    async def _ask(self, request: Request) -> Answer:
        call = turn(request, rules=self._rules, prefix=self._link.prefix, epoch=self._epoch)
        answer = Answer.parse(await self._link.run(call.script, call.keys, call.args))
        if answer.epoch != self._epoch:
            # Redis has lost its memory, and wants to hear of all places.
            self._epoch = answer.epoch
            self._renew_soon()
        self._note(answer)
        return answer

    def _note(self, answer: Answer) -> None:
        self._calls, self._waiting = answer.calls, answer.waiting
        for name in answer.admitted:
            self._hear(name)
        for name, standing in answer.standing.items():
            if (place := self._places.get(name)) is not None and place.waits:
                place._stand(standing)

    def _hear(self, name: str) -> None:
        """Learn that a place is admitted."""
        if (place := self._places.get(name)) is not None:
            place._admit()

    def _release(self, place: SharedPlace, took_s: float | None, cool_down_s: float) -> None:
        self._places.pop(place.name, None)
        if took_s is not None:
            self._estimate.learn(took_s + cool_down_s)
        self._released.append((place.name, round(cool_down_s * 1000)))
        self._work.set()
        if cool_down_s > 0:
            self._poke_in(cool_down_s)

    def _poke_in(self, seconds: float) -> None:
        """Ask again once a call has cooled down: whoever is next may be on any node."""

        def poke() -> None:
            self._pokes.discard(handle)
            self._renew_soon()

        handle = asyncio.get_running_loop().call_later(seconds, poke)
        self._pokes.add(handle)

    def _renew_soon(self) -> None:
        self._renewed_at = -math.inf
        self._work.set()

    def _pause_s(self) -> float:
        """How long until the places are to be renewed."""
        waits = any(place.waits for place in self._places.values())
        every_s = self._rules.look_s if waits else self._rules.renew_s
        return self._renewed_at + every_s - _now()


@asynccontextmanager
async def open_shared_queue(link: Link, rules: Rules) -> AsyncIterator[SharedQueue]:
    """Take part in the queue until the context ends, which gives back what is left."""
    queue = SharedQueue(link, rules)
    # No task group: that would wrap whatever the server fails with in an ExceptionGroup.
    task = asyncio.create_task(queue.run())
    try:
        yield queue
    finally:
        task.cancel()
        await asyncio.wait([task])
        await queue.close()


def _now() -> float:
    return asyncio.get_running_loop().time()
