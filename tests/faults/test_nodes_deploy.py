"""A new version goes out to one node after another, under load.

`FAULTS_NODES_TURNS=300 FAULTS_NODES_DEPLOYS=5 python -m pytest tests/faults/test_nodes_deploy.py
-s` is the long run: at least so many turns, so many times all nodes.
"""

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.faults.killing import HAPPENS_WITHIN_S
from tests.faults.nodes import Deployment, Fault, Node, Servers, deployment
from tests.faults.roaming import Crowd, distribution, only_faults_make_attempts, take_up_times
from tests.faults.scene import scene
from tests.llm.scripted import ScriptedModel
from tests.whole.processes import simulator

TURNS = int(os.environ.get("FAULTS_NODES_TURNS", "24"))
DEPLOYS = int(os.environ.get("FAULTS_NODES_DEPLOYS", "1"))
SESSIONS = 8
WITHIN_S = 60 + TURNS + DEPLOYS * 60

SHORT, LONG = "0.2", "15"
"""How long nodes may drain, in seconds: too short for most turns of this test, and for none."""

HANDED_OVER_WITHIN_S = 5.0
"""A node that goes hands its turns over at once; the others look for such every 2 s."""


async def test_a_rolling_deploy_loses_nothing_and_answers_nothing_twice(
    tmp_path: Path, servers: Servers
) -> None:
    async with (
        asyncio.timeout(WITHIN_S),
        simulator(tmp_path, interval_ms=20) as model,
        deployment(
            tmp_path,
            "deploy",
            servers=servers,
            model_url=model.url,
            of_first={"DRAIN_SECONDS": LONG},
            DRAIN_SECONDS=SHORT,
            MAX_ATTEMPTS="1000",
        ) as here,
    ):
        crowd = Crowd(here, turns=math.ceil(TURNS / SESSIONS))
        kept = await crowd.chat_through(SESSIONS, _roll(here))
        assert {turn.status for turn in kept.turns} == {"complete"}
        assert here.testimony.counts["reconnect"] >= DEPLOYS * len(here.nodes)
        only_faults_make_attempts(kept, here.faults)
        times = take_up_times(here.faults, crowd.sightings, kind="deploy")
        print(f"handed over: {distribution(times)}")
        assert max(times, default=0.0) <= HANDED_OVER_WITHIN_S
        await here.stop_all()


async def _roll(here: Deployment) -> None:
    for _ in range(DEPLOYS):
        for node in here.nodes:
            async with asyncio.timeout(HAPPENS_WITHIN_S):
                await here.testimony.more("token", here.dice.randint(50, 200))
            at, held = time.monotonic(), await here.held_by(node)
            stopping = asyncio.create_task(node.stop())
            # What it had accepted in its last moment before it was told.
            held |= await here.held_by(node)
            if node.settings["DRAIN_SECONDS"] == SHORT:
                here.faults.append(Fault(node, "deploy", at, held))
            assert await stopping == 0
            assert node.program.complaints == []
            await node.start()


@asynccontextmanager
async def asking_for_ever(node: Node) -> AsyncIterator[None]:
    """Send the beginning of a request, and never the rest."""
    _, writer = await asyncio.open_connection("127.0.0.1", urlsplit(node.url).port)
    head = f"POST /api/sessions HTTP/1.1\r\nHost: {node.name}\r\nContent-Length: 9\r\n\r\n"
    writer.write(f"{head}{{".encode())
    await writer.drain()
    try:
        yield
    finally:
        writer.transport.abort()


async def test_turns_are_handed_over_while_a_client_still_keeps_the_old_process_from_ending(
    tmp_path: Path, servers: Servers, model: ScriptedModel
) -> None:
    async with deployment(
        tmp_path, "lingering", servers=servers, model_url=model.url, DRAIN_SECONDS=SHORT
    ) as here:
        first = here.nodes[0]
        async with (
            scene(here, model, runs_on=first) as handed,
            asking_for_ever(first),
        ):
            await handed.say("하나 ")
            await handed.is_read()
            stopping = asyncio.create_task(first.stop())
            async with asyncio.timeout(HANDED_OVER_WITHIN_S):
                call = await model.call()
            assert not stopping.done()
            await call.say("다시 ")
            await call.complete()
            for reader in handed.remote:
                turn = await reader.ended()
                assert (turn.text, reader.log.cursor) == ("다시 ", "1.2.end")
            assert await stopping == 0
