"""Whatever nodes do, and whatever becomes of them: never more calls than may, and none is lost."""

import asyncio
import random
from dataclasses import dataclass, field

import anyio
import pytest

from gateway.nodes.link import BrokerAway
from gateway.nodes.queue import SharedPlace
from gateway.nodes.turnstile import Rules
from llm.admission import QueueFull
from tests.gateway.nodes.queueing import Deployment, Node, Standing, deployed, until

STEPS = 400
RULES = Rules(max_calls=3, max_waiting=12, lease_s=2.4, renew_s=0.4, look_s=0.15, quiet_s=1.2)


@dataclass
class World:
    """Three nodes, of which one dies now and then, and what they hold."""

    here: Deployment
    dice: random.Random
    nodes: list[Node] = field(default_factory=list)
    held: dict[Node, list[SharedPlace]] = field(default_factory=dict)
    refused: int = 0
    most: int = 0

    async def start(self) -> None:
        node = await self.here.node(RULES)
        self.nodes.append(node)
        self.held[node] = []

    async def step(self) -> None:
        node = self.dice.choice(self.nodes)
        match self.dice.choices(
            ["reserve", "release", "give up", "cool down", "crash", "end", "rest"],
            [50, 35, 10, 5, 1, 1, 20],
        )[0]:
            case "reserve":
                await self.reserve(node)
            case "release":
                self.release(node, waiting=False)
            case "give up":
                self.release(node, waiting=True)
            case "cool down":
                self.release(node, waiting=False, cool_down_s=self.dice.random() * 0.05)
            case "crash":
                await self.leave(node)
                await node.crash()
                await self.start()
            case "end":
                await self.leave(node)
                await node.close()
                await self.start()
            case "rest":
                await asyncio.sleep(self.dice.random() * 0.003)
        self.look()

    async def reserve(self, node: Node) -> None:
        task = asyncio.create_task(node.queue.reserve(even_if_full=self.dice.random() < 0.1))
        if self.dice.random() < 0.2:
            asyncio.get_running_loop().call_later(self.dice.random() * 0.001, task.cancel)
        try:
            self.held[node].append(await task)
        except QueueFull:
            self.refused += 1
        except (asyncio.CancelledError, BrokerAway):
            assert node.link.up

    def release(self, node: Node, *, waiting: bool, cool_down_s: float = 0.0) -> None:
        if fitting := [place for place in self.held[node] if place.waits == waiting]:
            place = self.dice.choice(fitting)
            self.held[node].remove(place)
            place.release(cool_down_s=cool_down_s)

    async def leave(self, node: Node) -> None:
        """Whoever calls there has stopped when the node is gone."""
        self.nodes.remove(node)
        del self.held[node]

    def look(self) -> None:
        calling = {
            place.name for places in self.held.values() for place in places if not place.waits
        }
        stored = self.here.calls
        assert calling <= set(stored), "who calls without Redis knowing it"
        assert len(stored) <= RULES.max_calls
        assert not set(stored) & set(self.here.waiting)
        self.most = max(self.most, len(calling))

    async def finish(self) -> None:
        """Everybody is served in the end, and nothing is left."""
        async with asyncio.TaskGroup() as tasks:
            for places in self.held.values():
                for place in places:
                    tasks.create_task(self.serve(place, places))
        await until(lambda: self.here.calls == self.here.waiting == [])
        for node in self.nodes:
            await node.settle()
            assert (node.queue.calls, node.queue.waiting) == (0, 0)
            assert not node.queue._places
            assert not node.queue._cooling

    async def serve(self, place: SharedPlace, among: list[SharedPlace]) -> None:
        await place.admitted(Standing())
        self.look()
        among.remove(place)
        place.release()


@pytest.mark.parametrize("seed", range(2))
async def test_never_more_calls_than_may_and_none_is_lost(
    redis_url: str, redis_prefix: str, seed: int
) -> None:
    with anyio.fail_after(120):
        async with deployed(redis_url, redis_prefix) as here:
            world = World(here, random.Random(seed))
            for _ in range(3):
                await world.start()
            for _ in range(STEPS):
                await world.step()
            await world.finish()
    assert world.refused
    assert world.most == RULES.max_calls
