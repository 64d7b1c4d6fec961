"""Announcements are lost: readers on other nodes hear everything all the same, a little later.

`FAULTS_NODES_PIECES=2000 python -m pytest tests/faults/test_nodes_announcements.py -s` is the long
run: so many pieces of text for each reply.
"""

import asyncio
import os
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path
from random import Random

import pytest

from tests.faults.killing import SEED
from tests.faults.nodes import Servers, deployment
from tests.faults.roaming import distribution
from tests.faults.scene import Reader, Scene, scene, scene_on_each
from tests.faults.wires import Lossy, Wire, end_of_reply, led_over
from tests.llm.scripted import ScriptedModel

PIECES = int(os.environ.get("FAULTS_NODES_PIECES", "60"))
INTERVAL_S = 0.05
BEHIND_S = 3.0
"""Every 1.5 s a node asks what there is; the rest is for two busy cores."""

FOUND_WITHIN_S = 12.0
"""After 15 s without any news of an open turn, readers elsewhere look for its end in storage."""

STOPS_WITHIN_S = 5.0
"""A node looks every 2 s at the latest whether its turns are to stop."""


async def test_readers_on_other_nodes_are_never_far_behind_and_miss_nothing(
    tmp_path: Path, servers: Servers, model: ScriptedModel
) -> None:
    lossy = Lossy(Random(f"{SEED}-lossy"), loss=0.5)
    async with (
        led_over(servers.broker_url, lossy) as url,
        deployment(
            tmp_path, "lossy", servers=replace(servers, broker_url=url), model_url=model.url
        ) as here,
        scene_on_each(here, model) as scenes,
    ):
        await _tell_slowly(scenes, lossy)
        for scene in scenes:
            await scene.call.complete()
        for scene in scenes:
            assert set(await scene.ended(within_s=BEHIND_S)) <= {"stop", "length"}
        await here.kept()
        await here.stop_all()


async def test_without_any_announcement_readers_keep_up_and_a_cancel_stops_what_it_should(
    tmp_path: Path, servers: Servers, model: ScriptedModel
) -> None:
    deaf = Lossy(Random(SEED), loss=1.0)
    async with (
        led_over(servers.broker_url, deaf) as url,
        deployment(
            tmp_path, "deaf", servers=replace(servers, broker_url=url), model_url=model.url
        ) as here,
        scene_on_each(here, model) as scenes,
    ):
        await _tell_slowly(scenes, deaf)
        for scene in scenes:
            async with scene.remote[0].node.http() as http:
                answer = await http.post(f"/api/sessions/{scene.session_id}/cancel", json={})
            assert answer.status_code == 202
        for scene in scenes:
            assert set(await scene.ended(within_s=STOPS_WITHIN_S)) == {"cancelled"}
        await here.kept()
        await here.stop_all()


async def _tell_slowly(scenes: list[Scene], lossy: Lossy) -> None:
    """Let the model say many pieces; nobody on another node may ever be far behind."""
    each = await asyncio.gather(*map(_lags, scenes))
    lags = list(chain.from_iterable(each))
    print(f"{lossy.dropped} lost, {lossy.passed} heard; behind: {distribution(lags)}")
    assert lossy.dropped
    assert max(lags) <= BEHIND_S


async def _lags(scene: Scene) -> list[float]:
    """Return how long after each piece was said each reader on another node had it."""
    said: list[tuple[int, float]] = []

    async def follow(reader: Reader) -> list[float]:
        lags: list[float] = []

        def note() -> bool:
            shown = len(reader.log.turns[1].text) if 1 in reader.log.turns else 0
            while len(lags) < len(said) and said[len(lags)][0] <= shown:
                lags.append(time.monotonic() - said[len(lags)][1])
            return len(lags) == PIECES

        await reader.until(note)
        return lags

    async with asyncio.timeout(60 + PIECES), asyncio.TaskGroup() as tasks:
        following = [tasks.create_task(follow(reader)) for reader in scene.remote]
        for number in range(PIECES):
            await scene.say(f"{number}번째 ")
            said.append((len(scene.text), time.monotonic()))
            await asyncio.sleep(INTERVAL_S)  # the pace of a model
    return [lag for task in following for lag in task.result()]


async def test_an_end_that_was_stored_and_never_announced_is_found_by_readers_elsewhere(
    tmp_path: Path, servers: Servers, model: ScriptedModel
) -> None:
    wire = Wire()
    async with (
        led_over(servers.broker_url, wire) as url,
        deployment(
            tmp_path,
            "unsaid",
            servers=servers,
            model_url=model.url,
            of_first={"BROKER_URL": url},
        ) as here,
        scene(here, model, runs_on=here.nodes[0]) as unsaid,
    ):
        await unsaid.say("하나 ")
        await unsaid.is_read()
        wire.cut = True
        assert await here.nodes[0].until_ready(503) == ["broker"]
        await unsaid.say("둘 ")
        await unsaid.call.complete()
        await unsaid.local.ended()
        began = time.monotonic()
        await here.kill(here.nodes[0])
        for reader in unsaid.remote:
            assert (await reader.ended(within_s=FOUND_WITHIN_S)).text == unsaid.text
        print(f"found after {time.monotonic() - began:.1f} s")
        await here.nothing_is_left_open()


@pytest.mark.parametrize("cut", range(1, 60))
def test_the_lossy_wire_drops_whole_announcements_wherever_what_passes_is_cut(cut: int) -> None:
    kept = [b"+OK\r\n", b"*2\r\n$3\r\na\r\n\r\n*1\r\n:12\r\n", b"$-1\r\n", b"*-1\r\n"]
    lost = b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$4\r\n\r\n\r\n\r\n"
    stream = lost.join(kept)
    lossy = Lossy(Random(0), 1.0)
    _, down = lossy()
    pieces = [stream[at : at + cut] for at in range(0, len(stream), cut)]
    assert b"".join(map(down, pieces)) == b"".join(kept)
    assert lossy.dropped == len(kept) - 1
    assert end_of_reply(lost, 0) == len(lost)
