"""The queue in front of the model server, shared by all nodes.

Redis decides, in one step and by its own time, who may call and who is next. Each node keeps its
places by renewing them: those of a node that died lapse. What Redis forgets, the nodes tell it
again. While Redis is away nobody is admitted, and who calls already goes on.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count, islice
from typing import Never

from gateway.nodes.away import BrokerAway
from gateway.nodes.link import Call, Link
from gateway.nodes.turnstile import ADMITTED, FULL, Answer, Release, Renewal, Rules, Turnstile, read
from gateway.waiting import heard
from llm.admission import Estimate, Moved, QueueFull, Told

log = logging.getLogger(__name__)

MAX_AT_ONCE = 500
"""Places told in one script: others wait meanwhile."""

MAX_RELEASED = 10_000
"""Places kept that are to be given back; what is more lapses."""

CLOSE_WITHIN_S = 1.0


class SharedPlace:
    """One call's place. Implements `llm.admission.Place`."""

    def __init__(self, queue: "SharedQueue", name: str, *, sure_until: float) -> None:
        self.name = name
        self.ticket = ""
        self.position: int | None = None
        self.sure_until = sure_until
        self.released = False
        self._queue = queue
        self._admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._told: Told | None = None
        self._since: float | None = None

    @property
    def waits(self) -> bool:
        return not self._admitted.done()

    async def admitted(self, moved: Moved) -> None:
        if self.waits:
            self._told = Told(moved)
            self.tell()
            await asyncio.shield(self._admitted)

    def call(self) -> None:
        self._since = _now()

    def release(self, *, cool_down_s: float = 0.0) -> None:
        if not self.released:
            self.released = True
            took_s = None if self._since is None else _now() - self._since + cool_down_s
            self._queue.give_back(self, took_s, 0.0 if self.waits else cool_down_s)

    def admit(self) -> None:
        """Let the call begin."""
        if self.waits:
            self._admitted.set_result(None)

    def tell(self) -> None:
        """Tell the position, if it is known and has changed, and was not told just now."""
        if self._told is not None and self.waits and self.position is not None:
            self._told.tell(
                self.position,
                self._queue.estimate.eta_ms(self.position),
                now=_now(),
                every_s=self._queue.rules.look_s,
            )


class SharedQueue:
    """Made by `open_shared_queue`. Implements `llm.admission.Admission`."""

    def __init__(self, link: Link, rules: Rules) -> None:
        self.rules = rules
        self.estimate = Estimate(rules.max_calls)
        self._link = link
        self._turnstile = Turnstile(link.prefix, rules)
        self._names = count(1)
        self._places: dict[str, SharedPlace] = {}
        self._cooling: dict[str, float] = {}
        self._released: dict[str, float | None] = {}
        self._epoch = ""  # what Redis was last told everything in
        self._calls = self._waiting = 0
        self._work = asyncio.Event()
        self._due_at = -math.inf
        self._failing = False
        self._closed = False

    @property
    def ready(self) -> bool:
        """Whether Redis is there and keeps the queue."""
        return self._link.up and not self._failing

    @property
    def calls(self) -> int:
        """How many calls there were, on all nodes, when Redis was last asked."""
        if self._link.up:
            return self._calls
        return sum(not place.waits for place in self._places.values()) + len(self._cooling)

    @property
    def waiting(self) -> int:
        """How many waited then."""
        return self._waiting if self._link.up else sum(p.waits for p in self._places.values())

    async def reserve(self, *, even_if_full: bool = False) -> SharedPlace:
        """Take a place, without waiting for admission; raises `QueueFull` and `BrokerAway`.

        Cancelled, it takes none.
        """
        if self._closed or not self._link.up:
            raise BrokerAway("Redis is away")
        name = f"{self._link.node}|{next(self._names)}"
        # Among the others already: what admits it may be announced before this is answered.
        place = SharedPlace(self, name, sure_until=_now() + self.rules.sure_s)
        self._places[name] = place
        try:
            asked = self._turnstile.reserve(name, even_if_full=even_if_full, epoch=self._epoch)
            [answer] = await self._ask([asked])
        except BaseException:  # it may have been reserved all the same
            place.release()
            raise
        if place.released:
            raise BrokerAway("the queue is closed")
        if answer.rest[0] == FULL:
            place.released = True
            del self._places[name]
            raise QueueFull(waiting=answer.waiting, retry_after_ms=self.estimate.eta_ms(1))
        self._enter(place, *answer.rest)
        return place

    def give_back(self, place: SharedPlace, took_s: float | None, cool_down_s: float) -> None:
        """Note that a place is released; Redis is told soon, or as soon as it is back."""
        del self._places[place.name]
        if len(self._released) < MAX_RELEASED:
            self._released[place.name] = took_s
        if cool_down_s > 0:
            self._cooling[place.name] = _now() + cool_down_s
        self._work.set()

    async def run(self) -> Never:
        """Renew and release places until cancelled."""
        self._link.subscribe(self._turnstile.channel(self._link.node), self._hear)
        self._link.when_up(self._renew_soon)
        while True:
            await heard(self._work, self._due_at - _now())
            self._work.clear()
            try:
                await self._settle()
                self._failing = False
            except BrokerAway as error:
                self._fail(error)
            except Exception:  # whatever it is: the places of this node are to be kept
                log.exception("the places in the queue could not be kept")
                self._look_in(self.rules.look_s)

    async def close(self) -> None:
        """Give back all places that are left, if that does not take long."""
        self._closed = True
        self._link.unsubscribe(self._turnstile.channel(self._link.node))
        for place in list(self._places.values()):
            place.release()
        with suppress(BrokerAway, TimeoutError):
            async with asyncio.timeout(CLOSE_WITHIN_S):
                while self._released and self._link.up:
                    await self._settle()

    # Telling Redis

    async def _settle(self) -> None:
        """Give back what was released, and renew the rest if that is due; raises `BrokerAway`."""
        asked_at = _now()
        names = list(islice(self._released, MAX_AT_ONCE))
        kept, calls = [], []
        if due := asked_at >= self._due_at:
            self._due_at = math.inf
            kept = self._kept()
            calls = self._renew(kept)
        if names:
            calls.insert(0, self._turnstile.release(self._releases(names), epoch=self._epoch))
        if not calls:
            return
        answers = await self._ask(calls)
        for name in names:
            del self._released[name]
        if self._released:
            self._work.set()
        if due:
            self._epoch = answers[-1].epoch
            self._renewed(kept, answers[bool(names) :], asked_at)
        elif answers[-1].change_s is not None:
            self._look_in(answers[-1].change_s)

    async def _ask(self, calls: list[Call]) -> list[Answer]:
        answers = [read(answer) for answer in _whole(await self._link.run_all(calls))]
        newest = answers[-1]
        if newest.epoch != self._epoch:
            # Redis has lost its memory, and is to hear of all places.
            self._renew_soon()
        self._calls, self._waiting = newest.calls, newest.waiting
        self.estimate.typical_s = newest.typical_s
        return answers

    def _kept(self) -> list[Renewal]:
        """List this node's places: who calls first, then who waits; unless its ticket is unknown,
        while it is being reserved."""
        now = _now()
        self._cooling = {name: until for name, until in self._cooling.items() if until > now}
        calling = [
            Renewal("call", place.name) for place in self._places.values() if not place.waits
        ]
        cooling = [Renewal("cooling", name, until - now) for name, until in self._cooling.items()]
        waiting = [
            Renewal("wait", place.name, place.ticket)
            for place in self._places.values()
            if place.waits and place.ticket
        ]
        return [*calling, *cooling, *waiting]

    def _renew(self, kept: list[Renewal]) -> list[Call]:
        # Nothing to keep is told too: all nodes gone silent is how Redis knows that it stood still.
        batches = [kept[at : at + MAX_AT_ONCE] for at in range(0, len(kept) or 1, MAX_AT_ONCE)]
        return [self._turnstile.renew(batch, epoch=self._epoch) for batch in batches]

    def _releases(self, names: list[str]) -> list[Release]:
        now = _now()
        return [
            Release(name, max(self._cooling.get(name, now) - now, 0.0), self._released[name])
            for name in names
        ]

    def _renewed(self, kept: list[Renewal], answers: list[Answer], asked_at: float) -> None:
        if _now() - asked_at >= self.rules.sure_s:
            # This process stood still: what was true then need not be true any more.
            self._renew_soon()
            return
        positions = [position for answer in answers for position in answer.rest]
        names = [renewal.place for renewal in kept if renewal.kind == "wait"]
        for name, position in zip(names, positions, strict=True):
            if (place := self._places.get(name)) is not None:
                place.sure_until = asked_at + self.rules.sure_s
                self._stand(place, position)
        waits = any(place.waits for place in self._places.values())
        self._look_in(self.rules.look_s if waits else self.rules.renew_s)
        if waits and (change_s := answers[-1].change_s) is not None:
            self._look_in(change_s)

    # What becomes of places

    def _enter(self, place: SharedPlace, position: int, ticket: str) -> None:
        place.ticket = ticket
        if position == ADMITTED:
            self._hear(place.name)
        elif place.waits:
            place.position = position
            self._look_in(self.rules.look_s)

    def _hear(self, name: str) -> None:
        """Learn that a place is admitted, or was a while ago."""
        place = self._places.get(name)
        if place is None:
            return
        if _now() < place.sure_until:
            place.admit()
        else:
            # This process stood still; by now its lease may have lapsed, and another may call.
            self._renew_soon()

    def _stand(self, place: SharedPlace, position: int) -> None:
        if position == ADMITTED:
            place.admit()
        else:
            place.position = position
            place.tell()

    # When to ask again

    def _renew_soon(self) -> None:
        self._due_at = -math.inf
        self._work.set()

    def _look_in(self, seconds: float) -> None:
        """See that the places are renewed in some seconds, or before that."""
        if (at := _now() + seconds) < self._due_at:
            self._due_at = at
            self._work.set()

    def _fail(self, error: Exception) -> None:
        # Sooner if the link is made again, or something is released.
        self._look_in(self.rules.look_s)
        if self._link.up and not self._failing:
            self._failing = True
            log.error("Redis does not keep the queue: %s", error)


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


def _whole(answers: list[object]) -> list[object]:
    """Return answers, or raise the first that is a script's failure."""
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def _now() -> float:
    return asyncio.get_running_loop().time()
