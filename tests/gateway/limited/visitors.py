"""Who comes to a gateway with limits: from some address, with somebody's key, and what it is told.

Whoever comes from this machine itself is not limited by address. So a gateway here trusts it as
a proxy, and visitors say in `X-Forwarded-For` where they come from.
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import anyio
import httpx
import pytest
from httpx_ws import AsyncWebSocketSession, WebSocketDisconnect, aconnect_ws
from httpx_ws.transport import ASGIWebSocketTransport

from gateway.auth.api_keys import new_key
from gateway.limits.buckets import MemoryBuckets
from tests.gateway.harness import WITHIN_S, Gateway, Json, Sse, Tab, call_of
from tests.gateway.peers import until
from tests.llm.scripted import ScriptedModel

HERE, THERE = "198.51.100.7", "203.0.113.9"

ALICE, _alice = new_key("alice")
BOB, _bob = new_key("bob")
KEYS = f"{_alice.line},{_bob.line}"
"""The setting with which only Alice and Bob are let in."""

PROBLEM = "application/problem+json"

Begin = Callable[..., AbstractAsyncContextManager[Gateway]]


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += seconds


def stop_time(gateway: Gateway) -> Clock:
    """Let no token come to any bucket but when the clock that this returns is moved."""
    buckets = gateway.house.entrance.buckets
    assert isinstance(buckets, MemoryBuckets)
    buckets._clock = clock = Clock()
    return clock


def headers_of(*, key: str | None = None, address: str | None = None) -> dict[str, str]:
    """What a request of a visitor says of it."""
    proof = {"Authorization": f"Bearer {key}"} if key else {}
    return proof | ({"X-Forwarded-For": address} if address else {})


@asynccontextmanager
async def visit(
    gateway: Gateway, *, key: str | None = None, address: str | None = None
) -> AsyncIterator[Gateway]:
    """See a gateway as somebody does: all that is asked is asked with that key, from there."""
    async with httpx.AsyncClient(
        transport=_transport(gateway),
        base_url=gateway.http.base_url,
        headers=headers_of(key=key, address=address),
        timeout=WITHIN_S,
        trust_env=False,
        verify=False,  # there is nothing to verify, and certificates load slowly
    ) as http:
        yield replace(gateway, http=http)


def _transport(gateway: Gateway) -> ASGIWebSocketTransport | None:
    """Lead to a gateway in this process; None is the way over sockets."""
    transport = gateway.http._transport
    if isinstance(transport, ASGIWebSocketTransport):
        return ASGIWebSocketTransport(transport.app)
    return None


@asynccontextmanager
async def watched(gateways: AbstractAsyncContextManager[Gateway]) -> AsyncIterator[Gateway]:
    """Run a gateway, and see that no seat is taken once everybody has gone."""
    async with gateways as gateway:
        yield gateway
        await empty(gateway)


async def empty(gateway: Gateway) -> None:
    """Wait until nobody sits in a gateway."""
    occupancy = gateway.house.entrance.occupancy
    await until(lambda: occupancy.total == occupancy.unauthenticated == 0)
    assert occupancy._addresses == occupancy._principals == {}


async def taken(gateway: Gateway, seats: int) -> None:
    """Wait until so many sit in a gateway."""
    await until(lambda: gateway.house.entrance.occupancy.total == seats)


# WebSockets


HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


async def denied(gateway: Gateway, **headers: str) -> httpx.Response:
    """Try to open a WebSocket; return the answer to a handshake that is refused outright.

    Only on sockets, and in plain HTTP: a client of WebSockets would not read all of it.
    """
    refused = await gateway.http.get("/ws", headers=HANDSHAKE | headers)
    assert refused.status_code != HTTPStatus.SWITCHING_PROTOCOLS
    return refused


async def turned_away(gateway: Gateway, session_id: str = "", **options: Any) -> tuple[Json, int]:
    """Open a WebSocket that is accepted and closed; return what it is told, and the close code."""
    path = f"/ws?session_id={session_id}" if session_id else "/ws"
    socket: AsyncWebSocketSession
    async with aconnect_ws(path, gateway.http, **options) as socket:
        return await last_words(socket)


async def last_words(socket: AsyncWebSocketSession) -> tuple[Json, int]:
    """Read an error and the close code that has to follow it."""
    with anyio.fail_after(WITHIN_S):
        error: Json = json.loads(await socket.receive_text())
        assert error["type"] == "error"
        with pytest.raises(WebSocketDisconnect) as closed:
            await socket.receive_text()
    return error, closed.value.code


@asynccontextmanager
async def silent(gateway: Gateway) -> AsyncIterator[AsyncWebSocketSession]:
    """Open a WebSocket without a word about who one is."""
    socket: AsyncWebSocketSession
    async with aconnect_ws("/ws", gateway.http) as socket:
        yield socket


async def introduce(socket: AsyncWebSocketSession, key: str) -> Tab:
    """Say in a frame who one is, and wait until that is known."""
    await socket.send_text(json.dumps({"type": "auth", "token": key}))
    return await greeted(socket)


async def greeted(socket: AsyncWebSocketSession) -> Tab:
    """Wait for the `ready` of a WebSocket."""
    with anyio.fail_after(WITHIN_S):
        return Tab(socket, json.loads(await socket.receive_text()))


# What takes a seat

Holder = Callable[[Gateway, ScriptedModel], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def a_socket(gateway: Gateway, model: ScriptedModel) -> AsyncIterator[None]:
    """Keep a WebSocket."""
    async with gateway.tab():
        yield


@asynccontextmanager
async def an_event_stream(gateway: Gateway, model: ScriptedModel) -> AsyncIterator[None]:
    """Keep the event stream of a session."""
    path = f"/api/sessions/{await gateway.new_session()}/events"
    async with gateway.sse("GET", path) as stream:
        await stream.next("ready")
        yield


@asynccontextmanager
async def a_streamed_reply(gateway: Gateway, model: ScriptedModel) -> AsyncIterator[None]:
    """Keep the stream of a reply that is being written, and leave when it has ended."""
    async with streaming(gateway) as stream:
        call = await call_of(model)
        await stream.next("start")
        yield
        await call.complete()
        await stream.all()


@asynccontextmanager
async def a_whole_reply(gateway: Gateway, model: ScriptedModel) -> AsyncIterator[None]:
    """Wait for a whole reply."""
    body = {"session_id": await gateway.new_session(), "message": "안녕"}
    replies: list[httpx.Response] = []

    async def ask() -> None:
        replies.append(await gateway.http.post("/api/chat", json=body))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        call = await call_of(model)
        yield
        await call.answer("네")
    assert [reply.status_code for reply in replies] == [200]


@asynccontextmanager
async def streaming(gateway: Gateway) -> AsyncIterator[Sse]:
    """Ask for a streamed reply, in a session of its own."""
    body = {"session_id": await gateway.new_session(), "message": "안녕"}
    async with gateway.sse("POST", "/api/chat/stream", json=body) as stream:
        yield stream


HOLDERS: list[Holder] = [a_socket, an_event_stream, a_streamed_reply, a_whole_reply]


async def replies_over_http(gateway: Gateway, session_id: str) -> list[httpx.Response]:
    """Ask for all that takes a seat over HTTP; each is to be refused before it begins."""
    asked = {"session_id": session_id, "message": "안녕"}
    return [
        await gateway.http.get(f"/api/sessions/{session_id}/events"),
        await gateway.http.post("/api/chat/stream", json=asked),
        await gateway.http.post("/api/chat", json=asked),
    ]


def problem(response: httpx.Response, status: int, code: str) -> Json:
    """Check what kind of problem a refusal is; return what it says."""
    told: Json = response.json()
    assert (response.status_code, told["status"], told["code"]) == (status, status, code)
    assert response.headers["content-type"] == PROBLEM
    return told


def retry_after(response: httpx.Response) -> str | None:
    """Say when a refusal asks to be tried again, in seconds."""
    after: str | None = response.headers.get("retry-after")
    return after
