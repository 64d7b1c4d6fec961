"""PostgreSQL restarts in the middle of everything: what was promised is kept, what runs ends.

`FAULTS_NODES_TURNS=300 FAULTS_NODES_FAULTS=10 python -m pytest tests/faults/test_nodes_postgres.py
-s` is the long run.
"""

import asyncio
import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.killing import HAPPENS_WITHIN_S
from tests.faults.nodes import TAKEN_UP_WITHIN_S, Deployment, Servers, deployment
from tests.faults.roaming import Crowd
from tests.faults.scene import scene
from tests.faults.wires import Wire, led_over
from tests.llm.scripted import ScriptedModel
from tests.servers.postgres import MISSING, PostgresServer, postgres_server, programs
from tests.whole.processes import simulator

TURNS = int(os.environ.get("FAULTS_NODES_TURNS", "24"))
FAULTS = int(os.environ.get("FAULTS_NODES_FAULTS", "2"))
SESSIONS = 6
WITHIN_S = 60 + TURNS + FAULTS * 20


@pytest.fixture
def durable_postgres() -> Iterator[PostgresServer]:
    """A server that keeps its word when it is killed."""
    if programs() is None:
        pytest.skip(MISSING)
    with postgres_server(durable=True) as server:
        yield server


async def test_turns_outlive_restarts_of_the_database_and_its_death(
    tmp_path: Path, durable_postgres: PostgresServer, redis_url: str, redis_prefix: str
) -> None:
    servers = Servers(durable_postgres.url(), redis_url, redis_prefix)
    async with (
        asyncio.timeout(WITHIN_S),
        simulator(tmp_path, interval_ms=20) as model,
        deployment(tmp_path, "database", servers=servers, model_url=model.url) as here,
    ):
        crowd = Crowd(here, turns=math.ceil(TURNS / SESSIONS))
        kept = await crowd.chat_through(SESSIONS, _restart_often(here, durable_postgres))
        assert {turn.status for turn in kept.turns} == {"complete"}
        assert {turn.attempt for turn in kept.turns} == {1}, "no node died"
        await here.stop_all(forgiven=r"ERROR +storage\.")


async def _restart_often(here: Deployment, postgres: PostgresServer) -> None:
    for number in range(FAULTS):
        async with asyncio.timeout(HAPPENS_WITHIN_S):
            await here.testimony.more("token", here.dice.randint(40, 200))
        await asyncio.to_thread(postgres.kill if number % 2 else postgres.stop)
        await asyncio.sleep(here.dice.uniform(0, 2))  # how long it is away is for the dice to say
        await asyncio.to_thread(postgres.start)
        for node in here.nodes:
            await node.until_ready()


async def test_a_node_that_alone_loses_the_database_loses_its_turns_and_keeps_its_readers(
    tmp_path: Path, servers: Servers, model: ScriptedModel
) -> None:
    wire = Wire()
    async with (
        led_over(servers.database_url, wire) as url,
        deployment(
            tmp_path,
            "cut off",
            servers=servers,
            model_url=model.url,
            of_first={"DATABASE_URL": url},
        ) as here,
        scene(here, model, runs_on=here.nodes[0]) as lost,
    ):
        first = here.nodes[0]
        await lost.say("하나 ")
        await lost.is_read()
        wire.cut = True
        assert await first.until_ready(503) == ["database"]
        await lost.say("둘 ")  # it does not know yet
        await lost.is_read()
        async with asyncio.timeout(TAKEN_UP_WITHIN_S):
            again = await model.call()
        await again.say("다시 ")
        for reader in lost.readers:
            await reader.shows("다시 ")
        await lost.call.say("셋 ")
        await lost.call.complete()
        await again.say("한 번 ")
        for reader in lost.readers:
            await reader.shows("다시 한 번 ")
        wire.cut = False
        await first.until_ready()
        await again.complete()
        for reader in lost.readers:
            assert (await reader.ended()).text == "다시 한 번 "
        assert await here.over() == [("stop", "다시 한 번 ")]
        assert {turn.attempt for turn in (await here.kept()).turns} == {2}
        assert here.fenced() == 1
        await here.nothing_is_left_open()
        await here.stop_all(forgiven=r"ERROR +storage\.")
