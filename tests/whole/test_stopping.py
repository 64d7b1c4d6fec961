"""How a gateway stops, and what its clients find when it is back."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.whole.audit import StrictLog
from tests.whole.clients import Json, WebSocketClient
from tests.whole.processes import Program, gateway, simulator
from tests.whole.proxy import Recorder, forwarding

STOPPED = (signal.SIGTERM, signal.SIGINT)
A_FEW_SECONDS = 4.0
LONG = "안녕하세요 #sim pieces=5000 interval_ms=20 first_token_ms=0#"
SHORT = "안녕하세요 #sim pieces=40 interval_ms=5 first_token_ms=0#"


def _tab(program: Program, **query: str) -> connect:
    address = httpx.URL(f"{program.url.replace('http', 'ws', 1)}/ws", params=query)
    return connect(str(address), proxy=None)


async def _frames(socket: ClientConnection) -> AsyncIterator[Json]:
    with suppress(ConnectionClosed):
        async for text in socket:
            yield json.loads(text)


async def _next(socket: ClientConnection, kind: str) -> Json:
    """Wait for a frame of some type."""
    async with asyncio.timeout(A_FEW_SECONDS):
        while (frame := json.loads(await socket.recv()))["type"] != kind:
            pass
    found: Json = frame
    return found


async def _events(response: httpx.Response) -> list[Json]:
    """Read an event stream to its end; `[DONE]` becomes an event of that type."""
    body = (await response.aread()).decode()
    data = [line.removeprefix("data: ") for line in body.split("\n") if line.startswith("data: ")]
    return [json.loads(each) if each != "[DONE]" else {"type": each} for each in data]


@pytest.mark.parametrize("number", STOPPED)
async def test_it_stops_soon_whoever_is_connected_and_says_when_to_come_back(
    number: signal.Signals, tmp_path: Path
) -> None:
    async with (
        gateway(tmp_path, DRAIN_SECONDS="0") as program,
        httpx.AsyncClient(base_url=program.url, trust_env=False, timeout=10) as http,
        _tab(program) as busy,
        _tab(program) as idle,
    ):
        session_id = (await _next(busy, "ready"))["session_id"]
        await busy.send(LONG)
        await _next(busy, "token")
        async with http.stream("GET", f"/api/sessions/{session_id}/events") as events:
            began = time.monotonic()
            program.send(number)
            for socket in (busy, idle):
                farewell = [frame async for frame in _frames(socket)]
                [reconnect] = [frame for frame in farewell if frame["type"] == "reconnect"]
                assert 0 <= reconnect["after_ms"] <= 5_000
                assert socket.close_code == 1012
            *_, last = await _events(events)
            assert last["code"] == "shutting_down"
            assert "id" not in last
        assert await program.ended() == 0
        assert time.monotonic() - began < A_FEW_SECONDS
    assert program.complaints == []


async def test_a_stream_of_one_turn_ends_with_an_error_and_done(tmp_path: Path) -> None:
    async with (
        gateway(tmp_path, DRAIN_SECONDS="0") as program,
        httpx.AsyncClient(base_url=program.url, trust_env=False, timeout=10) as http,
    ):
        session_id = (await http.post("/api/sessions")).json()["session_id"]
        body = {"session_id": session_id, "message": LONG}
        async with http.stream("POST", "/api/chat/stream", json=body) as stream:
            program.send(signal.SIGTERM)
            *_, error, done = await _events(stream)
        assert await program.ended() == 0
    assert error["message"].startswith("Stream error: ")
    assert error["code"] == "shutting_down"
    assert "id" not in error
    assert done == {"type": "[DONE]"}
    assert program.complaints == []


async def test_a_reply_that_can_end_in_time_is_ended_first(tmp_path: Path) -> None:
    async with gateway(tmp_path, DRAIN_SECONDS="15") as program, _tab(program) as tab:
        await tab.send(SHORT)
        await _next(tab, "token")
        program.send(signal.SIGTERM)
        complete = await _next(tab, "complete")
        assert complete["finish_reason"] == "stop"
        assert [frame async for frame in _frames(tab)] == []
        assert tab.close_code == 1012
        assert await program.ended() == 0


async def test_nothing_new_is_begun_while_it_stops(tmp_path: Path) -> None:
    async with (
        gateway(tmp_path, DRAIN_SECONDS="15") as program,
        _tab(program) as busy,
        _tab(program) as late,
    ):
        await busy.send(LONG)
        await _next(busy, "token")
        program.send(signal.SIGTERM)
        await _next(late, "reconnect")
        await late.send("한 가지 더")
        refused = await _next(late, "error")
        await busy.send("/cancel")
        assert (await _next(busy, "complete"))["finish_reason"] == "cancelled"
        assert await program.ended() == 0
    assert refused["code"] == "shutting_down"
    assert refused["retryable"] is True


async def test_told_a_second_time_it_ends_at_once(tmp_path: Path) -> None:
    async with gateway(tmp_path, DRAIN_SECONDS="60") as program, _tab(program) as tab:
        await tab.send(LONG)
        await _next(tab, "token")
        program.send(signal.SIGTERM)
        await _next(tab, "reconnect")
        assert await program.stop() == 137


class _Hurried(WebSocketClient):
    """Comes back at once, which is rude: the gateway asked it to wait a little."""

    async def took(self, frame: Json) -> None:
        if frame["type"] == "reconnect":
            self._wait_s = 0.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_restarted_gateway_takes_the_running_turn_up(
    number: signal.Signals, tmp_path: Path
) -> None:
    recorder = Recorder()
    async with (
        simulator(tmp_path, interval_ms=5) as model,
        forwarding(model.url, recorder) as model_url,
    ):
        settings = {"LLM_SERVER_URL": model_url, "DRAIN_SECONDS": "0"}
        log = StrictLog()
        async with gateway(tmp_path, **settings) as first:
            tab = _Hurried(f"{first.url.replace('http', 'ws', 1)}/ws", log=log)
            async with tab:
                asking = asyncio.create_task(tab.ask("이어서 말해 주세요", request_id="once"))
                await tab.until(lambda: 1 in log.turns and len(log.turns[1].text) > 20)
                await first.stop(number)
                cursor, told = log.cursor, log.turns[1].text
                port = str(urlsplit(first.url).port)
                async with gateway(tmp_path, PORT=port, **settings) as second:
                    async with asyncio.timeout(A_FEW_SECONDS):
                        turn = await asking
                    assert await second.stop() == 0
    assert cursor is not None
    assert cursor.startswith("1.1.")
    assert turn.ending is not None
    assert turn.ending["id"] == "1.2.end"
    _, again = recorder.calls()["이어서 말해 주세요"]
    assert turn.text == again.reply
    assert turn.text.startswith(told)
    assert list(log.turns) == [1]
    assert second.complaints == []
