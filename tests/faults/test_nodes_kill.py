"""Nodes die and stand still under clients that go from node to node: nothing is lost or doubled.

`FAULTS_NODES_TURNS=300 FAULTS_NODES_FAULTS=10 python -m pytest tests/faults/test_nodes_kill.py -s`
is the long run: at least so many turns, so many nodes killed and as many frozen. `FAULTS_SEED`
repeats one, as far as processes allow.
"""

import asyncio
import math
import os
from pathlib import Path

from tests.faults.misfortune import Kind, Misfortune
from tests.faults.nodes import TAKEN_UP_WITHIN_S, Deployment, Servers, deployment
from tests.faults.roaming import Crowd, distribution, only_faults_make_attempts, take_up_times
from tests.whole.processes import simulator

TURNS = int(os.environ.get("FAULTS_NODES_TURNS", "24"))
FAULTS = int(os.environ.get("FAULTS_NODES_FAULTS", "2"))
SESSIONS = 8
CUT_OFF = r"ERROR +storage\.\w+: a (read|write) failed"
"""What a node may complain of that finds its transactions ended when it goes on."""

WITHIN_S = 60 + TURNS + FAULTS * 40


async def test_turns_survive_nodes_that_die_or_stand_still_under_clients_that_move(
    tmp_path: Path, servers: Servers
) -> None:
    async with (
        asyncio.timeout(WITHIN_S),
        simulator(tmp_path, interval_ms=20) as model,
        deployment(
            tmp_path, "kill nodes", servers=servers, model_url=model.url, MAX_ATTEMPTS="4"
        ) as here,
    ):
        kinds: list[Kind] = ["kill", "freeze"] * FAULTS
        here.dice.shuffle(kinds)
        crowd = Crowd(here, turns=math.ceil(TURNS / SESSIONS))
        kept = await crowd.chat_through(SESSIONS, Misfortune(here).strike(kinds))
        await here.stop_all(forgiven=CUT_OFF)
        only_faults_make_attempts(kept, here.faults)
        assert any(turn.attempt > 1 for turn in kept.turns), "nothing was taken up"
        assert here.fenced() >= 1, "nobody who stood still was kept from going on"
        _check_times(here, crowd)


def _check_times(here: Deployment, crowd: Crowd) -> None:
    worst = []
    for kind in ("kill", "freeze"):
        times = take_up_times(here.faults, crowd.sightings, kind=kind)
        print(f"taken up after a {kind}: {distribution(times)}")
        worst += times
    # In a short run it may be that nobody was there to see it.
    assert max(worst, default=0.0) <= TAKEN_UP_WITHIN_S
