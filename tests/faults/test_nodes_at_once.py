"""Clients on different nodes want different things of one session at the same moment.

`FAULTS_NODES_RACES=100 python -m pytest tests/faults/test_nodes_at_once.py -s` is the long run.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from tests.faults.nodes import TAKEN_UP_WITHIN_S, Deployment, Node, Servers, deployment
from tests.faults.scene import HEARD_WITHIN_S, Scene, reading, scene
from tests.gateway.harness import call_of
from tests.llm.scripted import ScriptedModel

RACES = int(os.environ.get("FAULTS_NODES_RACES", "12"))
HEADSTART_S = 0.02


async def test_a_turn_that_another_node_was_told_to_cancel_is_never_complete(
    tmp_path: Path, servers: Servers, model: ScriptedModel
) -> None:
    outcomes: Counter[tuple[int, str]] = Counter()
    async with deployment(tmp_path, "cancel", servers=servers, model_url=model.url) as here:
        for _ in range(RACES):
            runs_on, other = here.dice.sample(here.nodes, 2)
            async with scene(here, model, runs_on=runs_on) as raced:
                await raced.say("하나 ")
                told, ending = await _race(here, raced, other)
            outcomes[told, ending] += 1
        assert len(await here.over()) == RACES
        await here.nothing_is_left_open()
        await here.stop_all()
    print(dict(outcomes))
    assert set(outcomes) <= {(202, "cancelled"), (409, "stop")}


async def _race(here: Deployment, raced: Scene, other: Node) -> tuple[int, str]:
    """Cancel on a node while the turn ends on another; return what was told and how it ended."""

    async def cancel() -> int:
        await asyncio.sleep(here.dice.uniform(0, HEADSTART_S))  # the dice choose who is first
        async with other.http() as http:
            return (await http.post(f"/api/sessions/{raced.session_id}/cancel")).status_code

    async def complete() -> None:
        await asyncio.sleep(here.dice.uniform(0, HEADSTART_S))
        await raced.call.complete()

    told, _ = await asyncio.gather(cancel(), complete())
    [ending] = set(await raced.ended())
    stored = await here.rows(
        "SELECT finish_reason FROM turns WHERE session_id = $1", raced.session_id
    )
    assert [row[0] for row in stored] == [ending]
    return told, ending


async def test_a_cancel_holds_even_if_the_node_that_ran_the_turn_never_hears_of_it(
    tmp_path: Path, servers: Servers, model: ScriptedModel
) -> None:
    async with deployment(tmp_path, "last words", servers=servers, model_url=model.url) as here:
        first, second, _ = here.nodes
        async with scene(here, model, runs_on=first) as left:
            await left.say("하나 ")
            await left.is_read()
            await here.freeze(first)
            async with second.http() as http:
                told = await http.post(f"/api/sessions/{left.session_id}/cancel", json={"turn": 1})
            assert (told.status_code, told.json()["turn"]) == (202, 1)
            await here.kill(first)
            for reader in left.remote:
                turn = await reader.ended(within_s=TAKEN_UP_WITHIN_S)
                assert turn.ending is not None
                assert turn.ending["finish_reason"] == "cancelled"
            await here.nothing_is_left_open()


async def test_of_two_chats_on_two_nodes_at_once_one_becomes_a_turn(
    tmp_path: Path, servers: Servers, model: ScriptedModel
) -> None:
    async with deployment(tmp_path, "two chats", servers=servers, model_url=model.url) as here:
        for _ in range(RACES):
            session_id = await here.new_session()
            nodes = here.dice.sample(here.nodes, 2)
            asking = _ask_on_each(nodes, session_id, [{"message": "저요"}, {"message": "저도요"}])
            refused = await _next(asking)
            assert (refused.status_code, refused.json()["code"]) == (409, "turn_in_progress")
            assert refused.json()["retryable"] is True
            call = await call_of(model)
            await call.answer("한 분만요.")
            accepted = await _next(asking)
            assert (accepted.status_code, accepted.json()["turn"]) == (200, 1)
        assert len(await here.over()) == RACES
        await here.stop_all()


async def test_a_request_that_reaches_all_nodes_at_once_is_one_turn(
    tmp_path: Path, servers: Servers, model: ScriptedModel
) -> None:
    async with deployment(tmp_path, "one request", servers=servers, model_url=model.url) as here:
        for _ in range(RACES):
            async with reading(here, here.nodes) as tabs:
                asking = [
                    asyncio.create_task(tab.ask("한 번만요", request_id="the same")) for tab in tabs
                ]
                call = await call_of(model)
                await call.say("네, ", "한 번.")
                for tab in tabs:
                    await tab.was_told("accepted")
                await call.complete()
                turns = await asyncio.wait_for(asyncio.gather(*asking), HEARD_WITHIN_S)
                assert [(turn.number, turn.text) for turn in turns] == [(1, "네, 한 번.")] * 3
                assert sorted(tab.duplicates for tab in tabs) == [0, 1, 1]
        assert await here.over() == [("stop", "네, 한 번.")] * RACES
        await here.stop_all()


async def test_a_session_deleted_on_one_node_is_gone_on_all(
    tmp_path: Path, servers: Servers, model: ScriptedModel
) -> None:
    async with deployment(tmp_path, "deleted", servers=servers, model_url=model.url) as here:
        first, second, _ = here.nodes
        async with scene(here, model, runs_on=first) as gone:
            await gone.say("하나 ")
            await gone.is_read()
            async with second.http() as http:
                assert (await http.delete(f"/api/sessions/{gone.session_id}")).status_code == 204
            async with asyncio.timeout(HEARD_WITHIN_S):
                for reader in gone.readers:
                    with pytest.raises(ConnectionClosed) as closed:
                        await reader.until(lambda: False)
                    assert closed.value.rcvd is not None
                    assert closed.value.rcvd.code == 4504
                await gone.call.closed()
            with pytest.raises(ConnectionClosed):
                await gone.asking
        assert await here.rows("SELECT 1 FROM turns UNION SELECT 1 FROM leases") == []
        await here.stop_all()


def _ask_on_each(
    nodes: Sequence[Node], session_id: str, bodies: Sequence[dict[str, str]]
) -> set[asyncio.Task[httpx.Response]]:
    async def ask(node: Node, body: dict[str, str]) -> httpx.Response:
        async with node.http() as http:
            return await http.post("/api/chat", json={"session_id": session_id, **body})

    return {asyncio.create_task(ask(node, body)) for node, body in zip(nodes, bodies, strict=True)}


async def _next(asking: set[asyncio.Task[httpx.Response]]) -> httpx.Response:
    """Wait for the next answer to one of several requests."""
    done, _ = await asyncio.wait(
        asking, timeout=HEARD_WITHIN_S, return_when=asyncio.FIRST_COMPLETED
    )
    [answered] = done
    asking.discard(answered)
    return answered.result()
