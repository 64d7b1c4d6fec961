"""Redis dies, stands still, comes back empty: running turns do not mind, and new ones wait.

`FAULTS_NODES_FAULTS=10 python -m pytest tests/faults/test_nodes_redis.py -s` lets that happen so
often.
"""

import asyncio
import os
from pathlib import Path

import pytest

from tests.faults.nodes import Deployment, Node, Servers, deployment
from tests.faults.scene import Scene, reading, scene_on_each
from tests.gateway.harness import call_of
from tests.llm.scripted import ScriptedModel
from tests.servers.redis import RedisServer

FAULTS = int(os.environ.get("FAULTS_NODES_FAULTS", "2"))
AT_ONCE_S = 2.0
"""A reader of the node that runs a turn waits for nobody else, on however busy a machine."""


@pytest.fixture
def on_own_redis(postgres_url: str, own_redis: RedisServer, redis_prefix: str) -> Servers:
    return Servers(postgres_url, own_redis.url, redis_prefix)


async def test_a_redis_that_comes_back_empty_loses_nothing_of_running_turns(
    tmp_path: Path, on_own_redis: Servers, own_redis: RedisServer, model: ScriptedModel
) -> None:
    async with (
        deployment(tmp_path, "empty", servers=on_own_redis, model_url=model.url) as here,
        scene_on_each(here, model) as scenes,
    ):
        for number in range(FAULTS):
            for scene in scenes:
                await scene.say(f"{number} 전 ", "말 ")
                await scene.is_read()
            await asyncio.to_thread(own_redis.restart)
            for scene in scenes:
                await scene.say(f"{number} 후 ")
            for scene in scenes:
                await scene.is_read()
        await _end_all(here, scenes)


@pytest.mark.parametrize("how", ["dead", "frozen"])
async def test_while_redis_is_away_running_turns_go_on_and_new_ones_are_asked_to_wait(
    tmp_path: Path, on_own_redis: Servers, own_redis: RedisServer, model: ScriptedModel, how: str
) -> None:
    go, come = {
        "dead": (own_redis.kill, own_redis.start),
        "frozen": (own_redis.pause, own_redis.resume),
    }[how]
    async with (
        deployment(tmp_path, f"away {how}", servers=on_own_redis, model_url=model.url) as here,
        scene_on_each(here, model) as scenes,
        reading(here, here.nodes[:1]) as [newcomer],
    ):
        for scene in scenes:
            await scene.say("하나 ")
            await scene.is_read()
        await asyncio.to_thread(go)
        for node in here.nodes:
            assert await node.until_ready(503) == ["broker"]
            await _refuses(here, node)
        waiting = asyncio.create_task(newcomer.ask("아직이요?", request_id="patient"))
        refused = await newcomer.was_told("error")
        assert (refused["code"], refused["retryable"]) == ("storage_error", True)
        assert refused["request_id"] == "patient"
        for scene in scenes:
            await scene.say("둘 ", "셋 ")
            await scene.local.shows(scene.text, within_s=AT_ONCE_S)
        first, *others = scenes
        await first.call.complete()
        await first.local.ended(within_s=AT_ONCE_S)
        await asyncio.to_thread(come)
        for node in here.nodes:
            await node.until_ready()
        for scene in others:
            await scene.is_read()
        call = await call_of(model)
        await call.say("이제 됩니다.")
        await call.complete()
        assert (await waiting).text == "이제 됩니다."
        await _end_all(here, scenes)


async def _refuses(here: Deployment, node: Node) -> None:
    """Over HTTP as well; a session is created all the same."""
    async with node.http() as http:
        session_id = (await http.post("/api/sessions", json={})).json()["session_id"]
        body = {"session_id": session_id, "message": "안녕", "request_id": "once"}
        for path in ("/api/chat", "/api/chat/stream"):
            refused = await http.post(path, json=body)
            assert (refused.status_code, refused.json()["code"]) == (503, "storage_error")
            assert refused.json()["retryable"] is True
        health = (await http.get("/api/health")).json()
        assert (health["status"], health["broker_connected"]) == ("degraded", False)


async def _end_all(here: Deployment, scenes: list[Scene]) -> None:
    for scene in scenes:
        await scene.call.complete()
    for scene in scenes:
        assert set(await scene.ended()) == {"stop"}
    kept = await here.kept()
    assert {turn.attempt for turn in kept.turns} == {1}, "nobody died"
    stored = {turn.session_id: turn.reply for turn in kept.turns}
    assert all(stored[scene.session_id] == scene.text for scene in scenes)
    await here.nothing_is_left_open()
    await here.stop_all()
