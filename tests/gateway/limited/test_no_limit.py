"""Every limit that may be 0: with 1 there is one and not many, with 0 there are as many as come."""

import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import anyio
import pytest
from httpx_ws import AsyncWebSocketSession, WebSocketUpgradeError, aconnect_ws
from pydantic import ValidationError

from gateway.limit_settings import LimitSettings
from tests.gateway.harness import WITHIN_S, Gateway
from tests.gateway.limited.visitors import ALICE, HERE, KEYS, Begin, stop_time, visit
from tests.llm.scripted import ScriptedModel

MANY = 4

Once = Callable[[Gateway, AsyncExitStack], Awaitable[bool]]
"""Does something once, until the stack ends; returns whether that was let."""


async def connect(gateway: Gateway, stack: AsyncExitStack) -> AsyncWebSocketSession | None:
    socket: AsyncWebSocketSession
    try:
        socket = await stack.enter_async_context(aconnect_ws("/ws", gateway.http))
    except WebSocketUpgradeError:
        return None
    return socket


async def heard(socket: AsyncWebSocketSession) -> str:
    """Wait for the next frame that answers something; return its type."""
    with anyio.fail_after(WITHIN_S):
        while (kind := json.loads(await socket.receive_text())["type"]) in ("start", "queued"):
            pass
    return str(kind)


async def come(gateway: Gateway, stack: AsyncExitStack) -> bool:
    """Open a WebSocket, with credentials and a new session."""
    alice = await stack.enter_async_context(visit(gateway, key=ALICE, address=HERE))
    socket = await connect(alice, stack)
    return socket is not None and await heard(socket) == "ready"


async def lurk(gateway: Gateway, stack: AsyncExitStack) -> bool:
    """Open a WebSocket without a word."""
    return await connect(gateway, stack) is not None


async def ask(gateway: Gateway, stack: AsyncExitStack) -> bool:
    """Ask what will not be answered, in a session of its own."""
    alice = await stack.enter_async_context(visit(gateway, key=ALICE, address=HERE))
    socket = await connect(alice, stack)
    assert socket is not None
    assert await heard(socket) == "ready"
    await socket.send_text("안녕")
    return await heard(socket) == "accepted"


LIMITS: dict[str, Once] = {
    "max_sessions": come,
    "max_open_turns": ask,
    "max_queued_turns": ask,
    "max_connections": come,
    "max_connections_per_principal": come,
    "max_connections_per_address": come,
    "max_unauthenticated": lurk,
    "handshakes_per_minute": come,
    "sessions_per_minute": come,
    "messages_per_minute": ask,
}


def may_be_0(name: str) -> bool:
    try:
        LimitSettings(**{name: 0})
    except ValidationError:
        return False
    return True


def test_every_limit_that_may_be_0_is_tried_here() -> None:
    assert {name for name in LimitSettings.model_fields if may_be_0(name)} == set(LIMITS)


async def tried(gateway: Gateway, once: Once) -> list[bool]:
    """Do something many times over; return which times that was let."""
    stop_time(gateway)
    async with AsyncExitStack() as stack:
        return [await once(gateway, stack) for _ in range(MANY)]


def only(name: str, limit: int) -> dict[str, object]:
    """Set one limit, and no other that could stand in the way."""
    return {**dict.fromkeys(LIMITS, 0), name: limit, "api_keys": KEYS}


@pytest.mark.parametrize(("name", "once"), LIMITS.items())
async def test_where_a_limit_is_0_there_is_none(
    limited: Begin, model: ScriptedModel, name: str, once: Once
) -> None:
    async with limited(**only(name, 0)) as gateway:
        assert await tried(gateway, once) == [True] * MANY


@pytest.mark.parametrize(("name", "once"), LIMITS.items())
async def test_where_a_limit_is_1_there_is_one_and_not_many(
    served_limited: Begin, model: ScriptedModel, name: str, once: Once
) -> None:
    async with served_limited(**only(name, 1)) as gateway:
        # One that is answered does not wait, so there are two where one may wait.
        passes = 2 if name == "max_queued_turns" else 1
        assert await tried(gateway, once) == [True] * passes + [False] * (MANY - passes)
