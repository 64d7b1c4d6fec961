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
from tests.faults.nodes import Deployment, Servers, deployment
from tests.faults.roaming import Crowd
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
