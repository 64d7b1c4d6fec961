"""A node is cut off from PostgreSQL, or from Redis as well, while it runs a turn and is read.

It lives, its clients stay, and the model goes on talking to it; but the turn is not its own any
more once its lease has lapsed.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.faults.nodes import TAKEN_UP_WITHIN_S, Deployment, Servers, deployment
from tests.faults.scene import Scene, scene
from tests.llm.scripted import Call, ScriptedModel
from tests.whole.proxy import Cut, Tap, forwarding


@dataclass
class Wire:
    """Lets everything through until it is `cut`, and then nothing."""

    cut: bool = False

    def __call__(self) -> tuple[Tap, Tap]:
        return self._tap, self._tap

    def _tap(self, data: bytes) -> bytes:
        if self.cut:
            raise Cut(b"")
        return data


@asynccontextmanager
async def first_on_a_wire(
    directory: Path, name: str, servers: Servers, model: ScriptedModel, *, wire: Wire, redis: bool
) -> AsyncIterator[Deployment]:
    """Run nodes, the first of which reaches PostgreSQL, and perhaps Redis, over a wire."""
    async with AsyncExitStack() as stack:
        of_first = {}
        urls = {"DATABASE_URL": servers.database_url}
        if redis:
            urls["BROKER_URL"] = servers.broker_url
        for setting, url in urls.items():
            near = await stack.enter_async_context(forwarding(url, lambda: wire()))
            parts = urlsplit(url)
            user, at, _ = parts.netloc.rpartition("@")
            place = f"{user}{at}{urlsplit(near).netloc}"
            of_first[setting] = parts._replace(netloc=place).geturl()
        here = deployment(directory, name, servers=servers, model_url=model.url, of_first=of_first)
        yield await stack.enter_async_context(here)


async def test_a_turn_of_a_node_that_lost_postgresql_goes_on_elsewhere_and_is_read_everywhere(
    tmp_path: Path, servers: Servers, model: ScriptedModel
) -> None:
    wire = Wire()
    async with (
        first_on_a_wire(tmp_path, "no database", servers, model, wire=wire, redis=False) as here,
        scene(here, model, runs_on=here.nodes[0]) as cut_off,
    ):
        await cut_off.say("하나 ")
        await cut_off.is_read()
        wire.cut = True
        again = await _is_called_again(cut_off, model)
        assert await here.nodes[0].until_ready(503) == ["database"]
        await again.say("다시 ", "하나")
        # On the node that is cut off as well: what runs elsewhere is carried by Redis.
        for reader in cut_off.readers:
            await reader.shows("다시 하나")
        await again.complete()
        for reader in cut_off.readers:
            await reader.ended()
        wire.cut = False
        await here.nodes[0].until_ready()
        await _is_over_as_attempt_2(here, "다시 하나")


async def test_a_node_that_lost_everybody_tells_its_clients_the_truth_once_it_is_back(
    tmp_path: Path, servers: Servers, model: ScriptedModel
) -> None:
    wire = Wire()
    async with (
        first_on_a_wire(tmp_path, "alone", servers, model, wire=wire, redis=True) as here,
        scene(here, model, runs_on=here.nodes[0]) as cut_off,
    ):
        await cut_off.say("하나 ")
        await cut_off.is_read()
        wire.cut = True
        again = await _is_called_again(cut_off, model)
        assert sorted(await here.nodes[0].until_ready(503)) == ["broker", "database"]
        # It does not know that the turn goes on elsewhere, nor do its clients.
        await cut_off.say("둘 ")
        await cut_off.local.shows(cut_off.text)
        await again.say("다시 ", "하나")
        await again.complete()
        for reader in cut_off.remote:
            assert (await reader.ended()).text == "다시 하나"
        await cut_off.say("셋")
        await cut_off.call.complete()
        await cut_off.local.shows(cut_off.text)
        told = await cut_off.local.was_told("error")
        assert (told["code"], "id" in told) == ("storage_error", False)
        assert cut_off.local.log.turns[1].ending is None, "nothing is over that is not stored"
        wire.cut = False
        await cut_off.local.shows("다시 하나")
        await cut_off.local.ended()
        await here.nodes[0].until_ready()
        await _is_over_as_attempt_2(here, "다시 하나")


async def _is_called_again(cut_off: Scene, model: ScriptedModel) -> Call:
    async with asyncio.timeout(TAKEN_UP_WITHIN_S):
        return await model.call()


async def _is_over_as_attempt_2(here: Deployment, text: str) -> None:
    assert await here.rows("SELECT attempt FROM turns") == [(2,)]
    assert await here.over() == [("stop", text)]
    await here.nothing_is_left_open()
    await here.stop_all(forgiven=r"ERROR +storage\.")
