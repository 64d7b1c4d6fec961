"""All nodes together ask the model no more at once than one would, whatever becomes of them.

`FAULTS_NODES_TURNS=300 FAULTS_NODES_FAULTS=10 python -m pytest tests/faults/test_nodes_queue.py -s`
is the long run.
"""

import asyncio
import math
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio

from llm.simulator.script import pieces_of
from tests.faults.kept import LABEL
from tests.faults.killing import HAPPENS_WITHIN_S
from tests.faults.nodes import TAKEN_UP_WITHIN_S, Deployment, Servers, deployment, seen
from tests.faults.roaming import Crowd, only_faults_make_attempts
from tests.faults.scene import HEARD_WITHIN_S, Reader, reading
from tests.llm.scripted import Call, ScriptedModel
from tests.servers.redis import RedisServer
from tests.whole.clients import Turn

TURNS = int(os.environ.get("FAULTS_NODES_TURNS", "24"))
FAULTS = int(os.environ.get("FAULTS_NODES_FAULTS", "2"))
MOST = 2
ASKING_PER_NODE = 3
SESSIONS = 8
WITHIN_S = 60 + TURNS + FAULTS * 20


class Gauge:
    """A model that speaks once it is let go, as a simulated one, and counts who asks at once."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0
        self.asked: list[str] = []
        self.may_speak = anyio.Event()
        self.asking = anyio.Event()

    async def serve(self, model: ScriptedModel) -> None:
        """Answer all calls until cancelled."""
        async with anyio.create_task_group() as calls:
            while True:
                calls.start_soon(self._answer, await model.call())

    async def full(self) -> None:
        """Wait until as many calls are under way as there may be."""
        with anyio.fail_after(HEARD_WITHIN_S):
            while self.now < MOST:
                self.asking = anyio.Event()
                await self.asking.wait()

    async def _answer(self, call: Call) -> None:
        self.asked.append(call.messages[-1]["content"])
        self.now += 1
        self.most = max(self.most, self.now)
        self.asking.set()
        async with anyio.create_task_group() as either:

            async def leave() -> None:
                await call.closed()
                either.cancel_scope.cancel()

            either.start_soon(leave)
            await self.may_speak.wait()
            for piece in pieces_of(f"{LABEL}하나 둘 셋 넷 다섯 여섯 일곱 여덟"):
                await call.say(piece)
                await anyio.sleep(0.02)  # the pace of a model
            either.cancel_scope.cancel()
        self.now -= 1
        await call.complete()


@asynccontextmanager
async def answering(model: ScriptedModel) -> AsyncIterator[Gauge]:
    gauge = Gauge()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(gauge.serve, model)
        yield gauge
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def asking_on_all(here: Deployment) -> AsyncIterator[dict[Reader, asyncio.Task[Turn]]]:
    """Ask the same number of questions on each node, each in a session of its own."""
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        readers = []
        for node in here.nodes * ASKING_PER_NODE:
            readers += await stack.enter_async_context(reading(here, [node]))
        yield {
            reader: tasks.create_task(reader.ask("저요", request_id="once")) for reader in readers
        }


async def test_nodes_share_the_calls_and_everybody_is_counted_in_one_queue(
    tmp_path: Path, servers: Servers, model: ScriptedModel
) -> None:
    async with (
        answering(model) as gauge,
        deployment(
            tmp_path,
            "share",
            servers=servers,
            model_url=model.url,
            LLM_MAX_CONCURRENCY=str(MOST),
        ) as here,
        asking_on_all(here) as asking,
    ):
        await gauge.full()
        waiting = len(asking) - MOST
        await _positions_become(list(asking), set(range(1, waiting + 1)))
        async with here.nodes[0].http() as http:

            async def health_says_so() -> bool:
                waits: int = (await http.get("/api/health")).json()["queued_turns"]
                return waits == waiting

            await seen(health_says_so, within_s=HEARD_WITHIN_S)
        gauge.may_speak.set()
        async with asyncio.timeout(HAPPENS_WITHIN_S):
            await asyncio.gather(*asking.values())
        assert (gauge.now, gauge.most, len(gauge.asked)) == (0, MOST, len(asking))
        for reader in asking:
            told = [frame["position"] for frame in reader.frames if frame["type"] == "queued"]
            assert told == sorted(told, reverse=True), "nobody falls back in the queue"
        await here.stop_all()


async def _positions_become(readers: list[Reader], positions: set[int]) -> None:
    def position(reader: Reader) -> int:
        told = [frame["position"] for frame in reader.frames if frame["type"] == "queued"]
        return told[-1] if told else 0

    async with asyncio.timeout(HEARD_WITHIN_S):
        for reader in readers:
            # Each news may be the last one; all are looked at.
            if {position(each) for each in readers} - {0} == positions:
                return
            await reader.until(lambda: {position(each) for each in readers} - {0} == positions)


async def test_the_places_of_a_node_that_died_come_back_and_its_turns_are_run(
    tmp_path: Path, servers: Servers, model: ScriptedModel
) -> None:
    async with (
        answering(model) as gauge,
        deployment(
            tmp_path,
            "places",
            servers=servers,
            model_url=model.url,
            LLM_MAX_CONCURRENCY=str(MOST),
        ) as here,
        AsyncExitStack() as stack,
        asyncio.TaskGroup() as tasks,
    ):
        first, second, third = here.nodes
        left = []
        for _ in range(MOST):
            [reader, other] = await stack.enter_async_context(reading(here, [first, second]))
            tasks.create_task(reader.ask("먼저요", request_id="once"))
            left.append(other)
        await gauge.full()
        waiting = []
        for node in (second, third):
            [reader] = await stack.enter_async_context(reading(here, [node]))
            waiting.append(tasks.create_task(reader.ask("다음이요", request_id="once")))
            await reader.was_told("queued")
        gauge.may_speak.set()
        await here.kill(first)
        async with asyncio.timeout(TAKEN_UP_WITHIN_S):
            await asyncio.gather(*waiting)
            for other in left:
                await other.ended(within_s=TAKEN_UP_WITHIN_S)
        assert gauge.most == MOST
        await first.start()
        await here.nothing_is_left_open()
    assert gauge.now == 0


async def test_the_model_is_never_asked_too_much_while_redis_is_emptied_and_a_node_dies(
    tmp_path: Path,
    postgres_url: str,
    own_redis: RedisServer,
    redis_prefix: str,
    model: ScriptedModel,
) -> None:
    servers = Servers(postgres_url, own_redis.url, redis_prefix)
    async with (
        asyncio.timeout(WITHIN_S),
        answering(model) as gauge,
        deployment(
            tmp_path,
            "never too much",
            servers=servers,
            model_url=model.url,
            LLM_MAX_CONCURRENCY=str(MOST),
        ) as here,
    ):
        gauge.may_speak.set()
        crowd = Crowd(here, turns=math.ceil(TURNS / SESSIONS), question="말해 주세요")
        kept = await crowd.chat_through(SESSIONS, _trouble(here, own_redis))
        only_faults_make_attempts(kept, here.faults)
        assert gauge.most == MOST
        await here.stop_all()


async def _trouble(here: Deployment, redis: RedisServer) -> None:
    for number in range(FAULTS):
        async with asyncio.timeout(HAPPENS_WITHIN_S):
            await here.testimony.more("token", here.dice.randint(20, 60))
            if number % 2:
                node = here.dice.choice(here.nodes)
                await here.kill(node)
                await node.start()
            else:
                await asyncio.to_thread(redis.restart)
