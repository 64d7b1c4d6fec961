"""Three nodes behind nginx as compose.yaml configures it: no client knows which one it is on.

`FAULTS_NODES_DEPLOYS=5 python -m pytest tests/faults/test_nodes_behind_nginx.py -s` is the long
run: so many times a new version goes out to all nodes.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.killing import HAPPENS_WITHIN_S
from tests.faults.load import Session, check
from tests.faults.nodes import Deployment, Servers, deployment
from tests.faults.testimony import WitnessHttpClient, WitnessTab, is_ended, new_session
from tests.gateway.harness import call_of
from tests.llm.scripted import ScriptedModel
from tests.whole.audit import StrictLog
from tests.whole.nginx import is_installed, nginx
from tests.whole.processes import Program, simulator

DEPLOYS = int(os.environ.get("FAULTS_NODES_DEPLOYS", "1"))
TABS, OTHERS = 6, 2
SHORT, LONG = "0.2", "15"
"""How long a node may drain, in seconds: not enough for the turns of this test, and enough."""

QUESTION = "살아 있나요? #sim interval_ms=40 first_token_ms=50#"
HEARD_WITHIN_S = 10.0

pytestmark = pytest.mark.skipif(not is_installed(), reason="nginx is not installed")


class Tab(WitnessTab):
    """A tab that counts how often it tried to connect."""

    tries = 0

    async def cancel(self) -> None:
        """Stop the open turn, as a person would."""
        assert self._socket is not None
        await self._socket.send("/cancel")

    def _address(self) -> str:
        self.tries += 1
        return super()._address()


@dataclass
class Front:
    """nginx, and the nodes behind it."""

    here: Deployment
    program: Program
    sessions: list[Session] = field(default_factory=list)
    tabs: list[Tab] = field(default_factory=list)
    enough: asyncio.Event = field(default_factory=asyncio.Event)

    def tab(self, session_id: str | None = None, *, log: StrictLog | None = None) -> Tab:
        url = f"{self.program.url.replace('http', 'ws', 1)}/ws"
        log = log or StrictLog()
        self.tabs.append(Tab(url, self.here.testimony, session_id=session_id, log=log))
        return self.tabs[-1]

    def session(self) -> Session:
        self.sessions.append(Session(f"session{len(self.sessions)}"))
        return self.sessions[-1]

    @asynccontextmanager
    async def http(self) -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient(
            base_url=self.program.url, timeout=30, trust_env=False
        ) as http:
            yield http

    async def connections(self) -> list[int]:
        """How many WebSockets each node has."""
        counts = []
        for node in self.here.nodes:
            async with node.http() as http:
                counts.append((await http.get("/api/health")).json()["connections"])
        return counts


@asynccontextmanager
async def behind_nginx(
    directory: Path, name: str, servers: Servers, model_url: str, *, drain: str = SHORT
) -> AsyncIterator[Front]:
    async with (
        deployment(
            directory,
            name,
            servers=servers,
            model_url=model_url,
            DRAIN_SECONDS=drain,
            MAX_ATTEMPTS="1000",
        ) as here,
        nginx(directory, [int(node.url.rpartition(":")[2]) for node in here.nodes]) as program,
    ):
        yield Front(here, program)


async def test_tabs_on_different_nodes_see_one_turn_and_each_can_cancel_it(
    tmp_path: Path, servers: Servers, model: ScriptedModel
) -> None:
    async with (
        behind_nginx(tmp_path, "tabs", servers, model.url) as front,
        AsyncExitStack() as stack,
    ):
        session_id = await front.here.new_session()
        tabs = [await stack.enter_async_context(front.tab(session_id)) for _ in range(3)]
        for tab in tabs:
            await _heard(tab, lambda tab=tab: tab.log.cursor is not None)
        assert await front.connections() == [1, 1, 1]
        asker, *_ = tabs
        for number, canceller in enumerate(tabs, start=1):
            asking = asyncio.create_task(asker.ask("안녕하세요", request_id=f"r{number}"))
            call = await call_of(model)
            text = ""
            for piece in ("하나 ", "둘 ", "셋 "):
                await call.say(piece)
                text += piece
                for tab in tabs:
                    await _shows(tab, number, text)
            await canceller.cancel()
            await call.closed()
            assert (await asking).ending is not None
            for tab in tabs:
                await _heard(tab, lambda tab=tab, n=number: is_ended(tab.log.turns.get(n)))
                ending = tab.log.turns[number].ending
                assert ending is not None
                assert ending["finish_reason"] == "cancelled"
                assert tab.log.turns[number].text == text
        await front.here.nothing_is_left_open()
        await front.here.stop_all()


async def _heard(tab: Tab, true: Any) -> None:
    async with asyncio.timeout(HEARD_WITHIN_S):
        await tab.until(true)


async def _shows(tab: Tab, number: int, text: str) -> None:
    await _heard(tab, lambda: number in tab.log.turns and tab.log.turns[number].text == text)


@pytest.mark.parametrize("drain", [SHORT, LONG])
async def test_a_rolling_deploy_behind_nginx_loses_nothing_and_no_handshake_fails(
    tmp_path: Path, servers: Servers, drain: str
) -> None:
    async with (
        asyncio.timeout(90 + DEPLOYS * 60),
        simulator(tmp_path, interval_ms=40) as model,
        behind_nginx(tmp_path, f"roll {drain}", servers, model.url, drain=drain) as front,
    ):
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(TABS):
                tasks.create_task(_chat_in_tabs(front, front.session()))
            for _ in range(OTHERS):
                tasks.create_task(_chat_over_http(front, front.session()))
            await _roll(front.here)
            front.enough.set()
        kept = await front.here.kept()
        again = sum(turn.attempt > 1 for turn in kept.turns)
        connections = sum(tab.connections for tab in front.tabs)
        print(
            f"{len(kept.turns)} turns, {again} of them handed over, {connections} connections, "
            f"{time.monotonic() - began:.1f} s"
        )
        for session in front.sessions:
            check(session, kept)
        assert {turn.status for turn in kept.turns} == {"complete"}
        assert bool(again) is (drain == SHORT)
        assert connections > len(front.tabs), "nobody had to come back"
        assert [tab.tries - tab.connections for tab in front.tabs] == [0] * len(front.tabs)
        await front.here.nothing_is_left_open()
        await front.here.stop_all()


async def _roll(here: Deployment) -> None:
    for _ in range(DEPLOYS):
        for node in here.nodes:
            async with asyncio.timeout(HAPPENS_WITHIN_S):
                await here.testimony.more("token", here.dice.randint(20, 100))
                while not await here.held_by(node):
                    await here.testimony.more("token", 1)
            assert await node.stop() == 0
            assert node.program.complaints == []
            await node.start()
            await node.until_ready()


async def _chat_in_tabs(front: Front, session: Session) -> None:
    """Ask in one tab, and see it all in another."""
    async with front.tab(log=session.log()) as tab:
        await tab.until(lambda: tab.session_id is not None)
        assert tab.session_id is not None
        session.session_id = tab.session_id
        async with front.tab(tab.session_id, log=session.log()) as other:
            await other.until(lambda: other.log.cursor is not None)
            while not front.enough.is_set():
                request_id, question = session.next_question(QUESTION)
                await tab.ask(question, request_id=request_id)
            await other.until(lambda: is_ended(other.log.turns.get(len(session.asked))))


async def _chat_over_http(front: Front, session: Session) -> None:
    """Ask with `POST /api/chat/stream`, and read what it says."""
    async with front.http() as http:
        session.session_id = await new_session(http, front.here.testimony)
        client = WitnessHttpClient(
            http, session.session_id, front.here.testimony, log=session.log()
        )
        while not front.enough.is_set():
            request_id, question = session.next_question(QUESTION)
            await client.ask_and_stream(question, request_id=request_id)
