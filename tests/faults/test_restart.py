"""A gateway that is told to stop under load, and the next one on the same port and file.

`FAULTS_RESTARTS=20 python -m pytest tests/faults/test_restart.py -s` is the long run; `FAULTS_SEED`
repeats one, as far as processes allow.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.faults.kept import KeptTurn
from tests.faults.killing import HAPPENS_WITHIN_S, World, world
from tests.faults.load import Chat, chat_through, check, over_a_socket, over_one_stream
from tests.whole.clients import Json

RESTARTS = int(os.environ.get("FAULTS_RESTARTS", "3"))
WITHIN_S = 90 + RESTARTS * 30

TABS = 20
STREAMS = 3
RECONNECT_WITHIN_MS = 5_000
AT_ONCE_S = 3.0
"""A process that ends at once, on however busy a machine; it would drain for a minute."""

DRAINS = ("0", "0.3", "20")
SHORT = "짧게 말해 주세요 #sim pieces=40 interval_ms=5 first_token_ms=0#"
LONG = "길게 말해 주세요 #sim pieces=9000 interval_ms=20 first_token_ms=0#"


class Caller:
    """A socket, and all it was told."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.frames: list[Json] = []

    async def send(self, message: str, **fields: Any) -> None:
        """Ask something."""
        await self.socket.send(json.dumps({"type": "chat", "message": message, **fields}))

    async def next(self, kind: str) -> Json:
        """Wait for a frame of a type."""
        while True:
            frame: Json = json.loads(await self.socket.recv())
            self.frames.append(frame)
            if frame["type"] == kind:
                return frame

    async def closed(self) -> int | None:
        """Wait until the socket is closed; return its close code."""
        with suppress(ConnectionClosed):
            await self.next("nothing of the kind")
        return self.socket.close_code

    def told(self, kind: str) -> list[Json]:
        """The frames of a type."""
        return [frame for frame in self.frames if frame["type"] == kind]

    @property
    def session_id(self) -> str:
        """The session it was greeted with."""
        session_id: str = self.frames[0]["session_id"]
        return session_id

    @property
    def text(self) -> str:
        """What it shows of its one turn."""
        return "".join(token["content"] for token in self.told("token"))


@asynccontextmanager
async def calling(here: World, count: int) -> AsyncIterator[list[Caller]]:
    """Connect some sockets, each to a session of its own."""
    async with AsyncExitStack() as stack, asyncio.timeout(HAPPENS_WITHIN_S):
        callers = []
        for _ in range(count):
            socket = await stack.enter_async_context(connect(here.socket_url, proxy=None))
            callers.append(Caller(socket))
            await callers[-1].next("ready")
        yield callers


async def _begin(callers: list[Caller], question: str) -> None:
    for caller in callers:
        await caller.send(question, request_id="once")
    for caller in callers:
        await caller.next("token")


async def test_stopping_under_load_ends_what_it_can_and_keeps_the_rest_to_the_letter(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, "stop", LLM_MAX_CONCURRENCY="16") as here:
        async with here.gateway(DRAIN_SECONDS="2") as program, calling(here, 18) as callers:
            short, long, idle = callers[:6], callers[6:12], callers[12:]
            await _begin(long, LONG)
            await _begin(short, SHORT)
            program.send(signal.SIGTERM)
            codes = await asyncio.gather(*(caller.closed() for caller in callers))
            assert await program.ended() == 0
            assert program.complaints == []
        assert set(codes) == {1012}
        _check_jitter(callers)
        kept = {turn.session_id: turn for turn in here.confirm().turns}
        assert len(kept) == len(short + long)
        for caller in short:
            _check_ended(caller, kept[caller.session_id])
        for caller in long:
            _check_kept(caller, kept[caller.session_id])
        assert all(len(caller.frames) == 2 for caller in idle)
        await _check_taken_up(here, long)


def _check_ended(caller: Caller, turn: KeptTurn) -> None:
    [complete] = caller.told("complete")
    assert complete["finish_reason"] == "stop"
    assert (turn.status, turn.reply) == ("complete", caller.text)


def _check_kept(caller: Caller, turn: KeptTurn) -> None:
    [error] = caller.told("error")
    assert (error["code"], error["retryable"]) == ("shutting_down", True)
    assert not {"id", "turn"} & set(error)
    assert (turn.status, turn.checkpoint) == ("running", caller.text)


async def _check_taken_up(here: World, callers: list[Caller]) -> None:
    async with here.gateway() as program, asyncio.timeout(HAPPENS_WITHIN_S):
        for before in callers:
            cursor = before.told("token")[-1]["id"]
            query = {"session_id": before.session_id, "after": cursor}
            address = httpx.URL(here.socket_url, params=query)
            async with connect(str(address), proxy=None) as socket:
                again = Caller(socket)
                assert (await again.next("ready"))["resumed"] is True
                start = await again.next("start")
                assert start == before.told("start")[0] | {"id": "1.2.0", "attempt": 2}
                await again.next("token")
                await socket.send("/cancel")
                assert (await again.next("complete"))["id"] == "1.2.end"
        assert await program.stop() == 0


def _check_jitter(callers: list[Caller]) -> None:
    """Everybody is told once when to come back, and not all at the same moment."""
    delays = []
    for caller in callers:
        [reconnect] = caller.told("reconnect")
        delays.append(reconnect["after_ms"])
    assert 0 <= min(delays) <= max(delays) <= RECONNECT_WITHIN_MS
    assert len(set(delays)) > len(delays) / 2
    assert max(delays) - min(delays) > RECONNECT_WITHIN_MS / 4


async def test_while_it_drains_nothing_new_is_begun_and_who_comes_is_told_to_come_back(
    tmp_path: Path,
) -> None:
    async with (
        world(tmp_path, "drain") as here,
        here.gateway(DRAIN_SECONDS="60") as program,
        here.http() as http,
        calling(here, 4) as callers,
    ):
        busy, *others = callers
        await _begin([busy], LONG)
        program.send(signal.SIGTERM)
        for caller in callers:
            await caller.next("reconnect")
        async with calling(here, 2) as newcomers:
            for caller in [*others, *newcomers]:
                await caller.send("아직 되나요?", request_id="late")
                refused = await caller.next("error")
                assert (refused["code"], refused["retryable"]) == ("shutting_down", True)
                assert refused["request_id"] == "late"
                assert [frame["type"] for frame in caller.frames].count("reconnect") == 1
        await _check_refused_over_http(http, others[0].session_id)
        await busy.socket.send("/cancel")
        assert (await busy.next("complete"))["finish_reason"] == "cancelled"
        assert await busy.closed() == 1012
        assert await program.ended() == 0
        assert program.complaints == []


async def _check_refused_over_http(http: httpx.AsyncClient, session_id: str) -> None:
    for path in ("/api/chat", "/api/chat/stream"):
        refused = await http.post(path, json={"session_id": session_id, "message": "안녕"})
        assert (refused.status_code, refused.json()["code"]) == (503, "shutting_down")
        assert refused.json()["retryable"] is True


async def test_told_a_second_time_under_load_it_ends_at_once_and_has_kept_its_word(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, "twice", LLM_MAX_CONCURRENCY="16") as here:
        async with here.gateway(DRAIN_SECONDS="60") as program, calling(here, 12) as callers:
            await _begin(callers, LONG)
            program.send(signal.SIGTERM)
            for caller in callers:
                await caller.next("reconnect")
            began = time.monotonic()
            assert await program.stop() == 137
            assert time.monotonic() - began < AT_ONCE_S
        for caller in callers:
            for start in caller.told("start"):
                here.testimony.hear(caller.session_id, start)
        assert [turn.is_open for turn in here.confirm().turns] == [True] * len(callers)
        await _check_taken_up(here, callers)


async def test_clients_that_come_back_when_told_see_every_turn_once_across_restarts(
    tmp_path: Path,
) -> None:
    chats: Sequence[Chat] = [over_a_socket] * TABS + [over_one_stream] * STREAMS
    async with asyncio.timeout(WITHIN_S), world(tmp_path, "restart") as here:
        sessions, kept = await chat_through(here, chats, _restart_often(here))
    kept.confirm(here.testimony.promises)
    assert here.testimony.counts["reconnect"] >= RESTARTS
    for session in sessions:
        check(session, kept)


async def _restart_often(here: World) -> None:
    for _ in range(RESTARTS):
        async with here.gateway(DRAIN_SECONDS=here.dice.choice(DRAINS)) as program:
            async with asyncio.timeout(HAPPENS_WITHIN_S):
                await here.testimony.more("complete", here.dice.randint(20, 60))
            assert await program.stop() == 0
            assert program.complaints == []
        here.deaths += 1
        here.confirm()
