"""Three nodes' queues in bad times, step by step at random, and what holds at every step.

Nodes die, stand still for longer than their leases, and hear nothing; Redis is restarted empty.

- Those who call, and those whose calls cool down, are never more than may call. Not counted is who
  called already when its node began to stand still: that is its own affair until it is released.
  That Redis forgot everything is no excuse: there is quiet until all nodes have come back.
- Nobody is admitted who came later than somebody who waits still.
- What a node held that died is gone once its lease is over.
- In the end everybody who waited was admitted, and nothing is left anywhere.

What does not hold: who asks for the first time in its life right after Redis forgot everything,
before all others, is admitted at once. It cannot know, and a new deployment is not to wait.

`QUEUE_SEEDS=50 python -m pytest tests/gateway/nodes/test_queue_at_random.py` is the long run.
"""

import asyncio
import math
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import pytest

from gateway.nodes.link import BrokerAway
from gateway.nodes.queue import SharedPlace
from llm.admission import QueueFull
from tests.gateway.nodes.queueing import RULES, Deployment, Node, deployed, until
from tests.servers.redis import RedisServer

SEEDS = range(int(os.environ.get("QUEUE_SEEDS", "2")))
STEPS = 500
MOST = 3
BUSY = replace(RULES, max_calls=MOST, max_waiting=8, lease_s=0.8, renew_s=0.2, quiet_s=0.5)
MARGIN_S = 0.3
"""How much later than promised something may be seen to happen, on a machine that is busy."""

Step = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Page:
    """What the queue in Redis looks like, without what has lapsed."""

    calls: frozenset[str] = frozenset()
    waiting: list[str] = field(default_factory=list)
    """In their order."""


def read(here: Deployment) -> Page:
    with here.client.pipeline(transaction=True) as pipe:
        pipe.time()
        for name in ("calls", "waiting", "leases"):
            pipe.zrange(here.key(name), 0, -1, withscores=True)
        (seconds, micros), calls, waiting, leases = pipe.execute()
    now = seconds * 1_000 + micros / 1_000
    there = {name for name, lapses in leases if lapses > now}
    return Page(
        frozenset(name for name, lapses in calls if lapses > now),
        [name for name, _ in waiting if name in there],
    )


class Sleeper:
    """Lets a node stand still: what it asks, and what is announced to it, comes late."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._run_all = node.link.run_all
        self._awake = asyncio.Event()
        self._missed: list[str] = []
        node.link.run_all = self._ask  # type: ignore[method-assign] # stands between
        node.link.subscribe(node.channel, self._missed.append)

    async def _ask(self, calls: Any) -> list[Any]:
        await self._awake.wait()
        return await self._run_all(calls)

    def wake(self) -> None:
        """Let it hear what it has missed, then go on."""
        for name in self._missed:
            self.node.queue._hear(name)
        hear(self.node)
        self._awake.set()
        self.node.link.run_all = self._run_all  # type: ignore[method-assign]


def hear(node: Node) -> None:
    node.link.subscribe(node.channel, node.queue._hear)


class World:
    """Nodes, what becomes of them, and what was seen so far."""

    def __init__(self, here: Deployment, tasks: asyncio.TaskGroup, dice: random.Random) -> None:
        self.dice = dice
        self.nodes: list[Node] = []
        self.reserved = 0
        self.admitted: set[str] = set()
        self._here = here
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._asleep: dict[Node, Sleeper] = {}
        self._overslept: set[str] = set()
        self._latecomers: set[str] = set()
        self._gone_by: dict[str, float] = {}
        self._page = Page()

    async def start(self) -> None:
        self.nodes.append(await self._here.node(BUSY))

    # Steps

    async def reserve(self) -> None:
        self._begin_to_reserve()

    async def cancel_a_reserve(self) -> None:
        task = self._begin_to_reserve()
        for _ in range(self.dice.randrange(12)):
            await asyncio.sleep(0)
        task.cancel()

    def _begin_to_reserve(self) -> asyncio.Task[None]:
        node = self.dice.choice(self._awake())
        return self._tasks.create_task(self._reserve(node, even_if_full=self.dice.random() < 0.1))

    async def _reserve(self, node: Node, *, even_if_full: bool) -> None:
        try:
            await node.queue.reserve(even_if_full=even_if_full)
            self.reserved += 1
        except (QueueFull, BrokerAway):
            pass

    async def release(self) -> None:
        for place in self._some_places(2):
            place.release()

    async def release_and_cool_down(self) -> None:
        for place in self._some_places(1):
            place.release(cool_down_s=self.dice.uniform(0.001, 0.05))

    def _some_places(self, number: int) -> list[SharedPlace]:
        places = self._places()
        return self.dice.sample(places, min(number, len(places)))

    async def crash(self) -> None:
        node = self.dice.choice(self._awake())
        self.nodes.remove(node)
        await node.crash()
        self._gone_by[node.link.node] = self._loop.time() + BUSY.lease_s + MARGIN_S
        # A new node cannot know that Redis has forgotten everything: others are to ask first.
        awake = self._awake()
        await until(lambda: all(node.link.up for node in awake))
        await until(lambda: len({node.queue._epoch for node in awake}) == 1)
        await self.start()

    async def stand_still(self) -> None:
        if self._asleep:
            return
        node = self.dice.choice(self.nodes)
        self._asleep[node] = Sleeper(node)
        places = node.queue._places
        self._latecomers |= set(places)
        self._overslept |= {name for name, place in places.items() if not place.waits}
        self._overslept |= set(node.queue._cooling)
        self._loop.call_later(BUSY.lease_s * 1.2, self._wake, node)

    def _wake(self, node: Node) -> None:
        self._asleep.pop(node).wake()

    async def hear_nothing(self) -> None:
        node = self.dice.choice(self._awake())
        node.lose_announcements()
        self._loop.call_later(0.2, self._hear_again, node)

    def _hear_again(self, node: Node) -> None:
        if node in self._awake():
            hear(node)

    # What holds

    def look(self) -> None:
        """See whether all is as it should be."""
        before, self._page = self._page, read(self._here)
        calls, waiting = self._page.calls, self._page.waiting
        assert len(self._calling() - self._overslept) <= MOST
        assert len(calls - self._overslept) <= MOST, self._page
        self._first_come_first_served(before, calls - self.admitted - self._latecomers)
        self.admitted |= calls
        for name in (*calls, *waiting):
            owner = name.rpartition("|")[0]
            assert self._loop.time() < self._gone_by.get(owner, math.inf), f"{name} is left"

    def _calling(self) -> set[str]:
        """Name who calls, and whose calls cool down, as the nodes see it."""
        soon = self._loop.time() + 0.002  # Redis reckons in milliseconds
        queues = [node.queue for node in self._awake()]
        calling = {n for queue in queues for n, place in queue._places.items() if not place.waits}
        return calling | {n for queue in queues for n, at in queue._cooling.items() if at > soon}

    def _first_come_first_served(self, before: Page, admitted: frozenset[str] | set[str]) -> None:
        stayed = set(before.waiting) & set(self._page.waiting)
        if admitted and stayed:
            first = min(map(before.waiting.index, stayed))
            assert admitted <= set(before.waiting[:first]), (before, self._page)

    # The end

    async def finish(self) -> None:
        """Let everybody be admitted who waits, and release them."""
        while self._asleep or any(node.queue._places for node in self.nodes):
            for place in self._places():
                if not place.waits:
                    place.release()
            self.look()
            await asyncio.sleep(0.001)
        await until(lambda: read(self._here) == Page())
        for node in self.nodes:
            await node.settle()
            queue = node.queue
            assert not any((queue._places, queue._released, queue._cooling))

    def _awake(self) -> list[Node]:
        return [node for node in self.nodes if node not in self._asleep]

    def _places(self) -> list[SharedPlace]:
        """List the places that can be released; what is being reserved is not known yet."""
        return [
            place
            for node in self._awake()
            for place in node.queue._places.values()
            if place.ticket or not place.waits
        ]


@asynccontextmanager
async def world_of(redis: RedisServer, seed: int) -> AsyncIterator[World]:
    with anyio.fail_after(60):
        async with deployed(redis.url, "test") as here, asyncio.TaskGroup() as tasks:
            world = World(here, tasks, random.Random(seed))
            for _ in range(3):
                await world.start()
            yield world


@pytest.mark.parametrize("seed", SEEDS)
async def test_what_holds_in_bad_times(own_redis: RedisServer, seed: int) -> None:
    async with world_of(own_redis, seed) as world:

        async def restart() -> None:
            await asyncio.to_thread(own_redis.restart)

        steps: dict[Step, int] = {
            world.reserve: 100,
            world.cancel_a_reserve: 20,
            world.release: 50,
            world.release_and_cool_down: 20,
            world.hear_nothing: 6,
            world.stand_still: 3,
            world.crash: 2,
            restart: 1,
        }
        for _ in range(STEPS):
            [step] = world.dice.choices(list(steps), list(steps.values()))
            await step()
            world.look()
            await asyncio.sleep(world.dice.random() * 0.008)
        await world.finish()
        assert world.reserved > STEPS / 8
        assert len(world.admitted) > MOST
