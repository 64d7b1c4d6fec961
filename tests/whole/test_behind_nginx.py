"""Gateways behind nginx, with the very configuration of compose.yaml.

These gateways know nothing of each other: it is about what lies between them and their clients.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from gateway.settings import Settings
from tests.faults.killing import held_port
from tests.gateway.harness import call_of
from tests.llm.scripted import ScriptedModel
from tests.whole.nginx import is_installed, nginx
from tests.whole.processes import Program, gateway
from tests.whole.waiting import next_event, next_frame

WITHIN_S = 20.0
CLIENTS = 30
KIB = 1024

pytestmark = pytest.mark.skipif(not is_installed(), reason="nginx is not installed")


CHAT_EXAMPLE: dict[str, Any] = {"ALLOWED_HOSTS": "chat.example", "ALLOW_ANONYMOUS": "true"}


@dataclass
class Site:
    """Two gateways and nginx in front of them."""

    gateways: list[Program]
    front: Program

    @property
    def socket_url(self) -> str:
        return f"{self.front.url.replace('http', 'ws', 1)}/ws"

    @property
    def port(self) -> int:
        return httpx.URL(self.front.url).port or 0

    @asynccontextmanager
    async def http(self) -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient(
            base_url=self.front.url, timeout=WITHIN_S, trust_env=False
        ) as http:
            yield http

    def tab(self, **options: Any) -> connect:
        return connect(self.socket_url, proxy=None, **options)


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as model:
        yield model


@asynccontextmanager
async def site(
    directory: Path, model: ScriptedModel, changes: dict[str, str] | None = None, **settings: str
) -> AsyncIterator[Site]:
    """Run it; `changes` are of nginx's configuration."""
    async with AsyncExitStack() as stack:
        with ExitStack() as ports:
            gateways, places = [], []
            for name in ("first", "second"):
                places.append(port := ports.enter_context(held_port()))
                (directory / name).mkdir()
                given = {"LLM_SERVER_URL": model.url, "PORT": str(port), "DRAIN_SECONDS": "0"}
                program = gateway(directory / name, **(given | settings))
                gateways.append(await stack.enter_async_context(program))
            front = await stack.enter_async_context(nginx(directory, places, **(changes or {})))
            await stack.enter_async_context(asyncio.timeout(2 * WITHIN_S))
            yield Site(gateways, front)
        assert await front.stop(signal.SIGQUIT) == 0
        assert (front.out, front.err) == ([], [])
        assert [line for program in gateways for line in program.complaints] == []


async def _new_session(http: httpx.AsyncClient) -> str:
    created = await http.post("/api/sessions")
    assert created.status_code == 201
    session_id: str = created.json()["session_id"]
    return session_id


async def test_each_piece_of_a_reply_comes_through_a_websocket_at_once(
    tmp_path: Path, model: ScriptedModel
) -> None:
    async with site(tmp_path, model) as here, here.tab() as tab:
        await tab.send("안녕하세요")
        call = await call_of(model)
        for piece in ("하나 ", "둘 ", "셋"):
            await call.say(piece)
            # The model says no more before this has arrived.
            assert (await next_frame(tab, "token"))["content"] == piece
        await call.complete()
        assert (await next_frame(tab, "complete"))["finish_reason"] == "stop"


async def test_each_piece_of_a_reply_comes_through_event_streams_at_once(
    tmp_path: Path, model: ScriptedModel
) -> None:
    # Of one gateway: the other does not know the session.
    async with site(tmp_path, model) as here, here.http() as http:
        assert await here.gateways[1].stop() == 0
        session_id = await _new_session(http)
        body = {"session_id": session_id, "message": "안녕하세요"}
        async with (
            http.stream("GET", f"/api/sessions/{session_id}/events") as following,
            http.stream("POST", "/api/chat/stream", json=body) as asking,
        ):
            assert asking.headers["content-type"] == "text/event-stream; charset=utf-8"
            streams = [following.aiter_lines(), asking.aiter_lines()]
            call = await call_of(model)
            for piece in ("하나 ", "둘 ", "셋"):
                await call.say(piece)
                for lines in streams:
                    assert (await next_event(lines, "token"))["content"] == piece
            await call.complete()
            for lines in streams:
                await next_event(lines, "complete")


async def test_silence_longer_than_nginx_waits_ends_nothing(
    tmp_path: Path, model: ScriptedModel
) -> None:
    """At 25 times the speed of life: a heartbeat each second, and nginx waits for 2.4."""
    async with (
        site(tmp_path, model, {"proxy_read_timeout": "2400ms"}, HEARTBEAT_S="1") as here,
        here.http() as http,
    ):
        assert await here.gateways[1].stop() == 0
        async with here.tab() as quiet, here.tab() as waiting:
            session_id = (await next_frame(waiting, "ready"))["session_id"]
            body = {"session_id": session_id, "message": "안녕하세요"}
            asking = asyncio.create_task(http.post("/api/chat", json=body))
            call = await call_of(model)
            for _ in range(4):
                for tab in (quiet, waiting):
                    await next_frame(tab, "ping")
            await call.answer("한참 생각했어요.")
            assert (await asking).json()["content"] == "한참 생각했어요."
            await next_frame(waiting, "complete")
            await quiet.send("/ping")
            await next_frame(quiet, "pong")


async def test_a_gateway_that_stopped_is_passed_over_at_once_and_nobody_sees_an_error(
    tmp_path: Path, model: ScriptedModel
) -> None:
    async with site(tmp_path, model) as here, here.http() as http, AsyncExitStack() as stack:
        tabs = [await stack.enter_async_context(here.tab()) for _ in range(4)]
        assert await here.gateways[0].stop() == 0
        told = [asyncio.create_task(tab.wait_closed()) for tab in tabs]
        for closing in islice(asyncio.as_completed(told), 2):
            await closing
        assert sorted(tab.close_code or 0 for tab in tabs) == [0, 0, 1012, 1012], "two on each"

        async with asyncio.timeout(WITHIN_S / 2):
            await asyncio.gather(*(_comes(here, http) for _ in range(CLIENTS)))


async def _comes(here: Site, http: httpx.AsyncClient) -> None:
    async with here.tab() as tab:
        assert (await next_frame(tab, "ready"))["created"] is True
    session_id = await _new_session(http)
    assert (await http.get(f"/api/sessions/{session_id}")).status_code == 200
    assert (await http.delete(f"/api/sessions/{session_id}")).status_code == 204


async def test_where_no_gateway_is_there_the_answer_is_one_of_the_gateway_s_errors(
    tmp_path: Path, model: ScriptedModel
) -> None:
    async with site(tmp_path, model) as here, here.http() as http:
        for program in here.gateways:
            assert await program.stop() == 0
        for answer in (await http.get("/api/health"), await http.post("/api/sessions")):
            assert answer.status_code == 503
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["retry-after"] == "1"
            assert answer.json()["retryable"] is True
        with pytest.raises(InvalidStatus, match="503"):
            async with here.tab():
                pass


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("chat.example", "http://chat.example", 101),
        ("chat.example:{port}", "http://chat.example:{port}", 101),
        ("chat.example:{port}", "http://chat.example", 403),
        ("chat.example:{port}", "http://chat.example:1", 403),
        ("chat.example:{port}", "https://evil.example", 403),
    ],
)
async def test_a_page_of_the_same_host_and_port_is_let_in_and_no_other(
    tmp_path: Path, model: ScriptedModel, host: str, origin: str, status: int
) -> None:
    async with site(tmp_path, model, **CHAT_EXAMPLE) as here:
        host, origin = (text.format(port=here.port) for text in (host, origin))
        opening = connect(
            f"ws://{host}/ws",
            host="127.0.0.1",
            port=here.port,
            origin=origin,  # type: ignore[arg-type]  # any text, for whoever reads it
            proxy=None,
        )
        try:
            async with opening as tab:
                await next_frame(tab, "ready")
                met = 101
        except InvalidStatus as refused:
            met = refused.response.status_code
        assert met == status


async def test_the_limits_are_those_of_the_gateway(tmp_path: Path, model: ScriptedModel) -> None:
    async with site(tmp_path, model) as here, here.http() as http:
        limit = Settings.model_fields["max_body_bytes"].default
        for size in (limit + 1, 2 * KIB * KIB - 1, 2 * KIB * KIB + 1, 8 * KIB * KIB):
            refused = await http.post("/api/sessions", content=b" " * size)
            assert refused.status_code == 413
            assert refused.headers["content-type"] == "application/problem+json"
            problem = refused.json()
            assert (problem["code"], problem["retryable"]) == ("body_too_large", False)
            by_gateway = f"larger than {limit} bytes" in problem["detail"]
            assert by_gateway is (size < 2 * KIB * KIB)
        assert (await http.post("/api/sessions", content=b" " * limit)).status_code == 201
        async with here.tab() as tab:
            await next_frame(tab, "ready")
            await tab.send("x" * (Settings.model_fields["max_frame_bytes"].default + 1))
            with pytest.raises(ConnectionClosed) as closed:
                await next_frame(tab, "never")
            # The gateway says why, but nginx, still sending, may find it gone before it reads that.
            assert closed.value.rcvd is None or closed.value.rcvd.code == 1009


async def test_a_client_that_offers_another_upgrade_is_answered_without(
    tmp_path: Path, model: ScriptedModel
) -> None:
    async with site(tmp_path, model) as here, here.http() as http:
        offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": ""}
        answer = await http.get("/api/health", headers=offer)
        assert (answer.status_code, answer.json()["status"]) == (200, "healthy")


async def test_who_leaves_nginx_is_gone_for_the_gateway(
    tmp_path: Path, model: ScriptedModel
) -> None:
    async with site(tmp_path, model) as here, here.http() as http:
        assert await here.gateways[1].stop() == 0
        session_id = await _new_session(http)
        events = f"/api/sessions/{session_id}/events"
        async with here.tab() as tab, http.stream("GET", events) as following:
            await next_frame(tab, "ready")
            await next_event(following.aiter_lines(), "ready")
            assert await _connections(http) == 1
        while await _connections(http):  # noqa: ASYNC110 - another process cannot set an event
            await asyncio.sleep(0.05)


async def _connections(http: httpx.AsyncClient) -> int:
    number: int = (await http.get("/api/health")).json()["connections"]
    return number
