"""Limits among many nodes: spent on one is spent on all; without Redis each counts for itself."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest

from gateway.settings import Settings
from tests.gateway.harness import Gateway, Tab, on_sockets
from tests.gateway.limited.visitors import (
    ALICE,
    BOB,
    HERE,
    KEYS,
    THERE,
    denied,
    problem,
    turned_away,
    visit,
    watched,
)
from tests.llm.scripted import ScriptedModel
from tests.servers.redis import RedisServer

Nodes = tuple[Gateway, Gateway]
BeginNodes = Callable[..., AbstractAsyncContextManager[Nodes]]

SLOW = 1
"""One at once, and no other for a minute: time plays no part in a test."""


@pytest.fixture
def limited_nodes(member: Settings) -> BeginNodes:
    """Begin two nodes with limits; nobody may sit in either when they end."""

    @asynccontextmanager
    async def begin(**limits: Any) -> AsyncIterator[Nodes]:
        settings = Settings(
            _env_file=None,
            **member.model_dump()
            | {"trusted_proxies": "127.0.0.1", "allow_anonymous": True}
            | limits,
        )
        async with watched(on_sockets(settings)) as here, watched(on_sockets(settings)) as there:
            yield here, there

    return begin


@asynccontextmanager
async def visit_both(nodes: Nodes, **visitor: str) -> AsyncIterator[Nodes]:
    """See two nodes as the same somebody does."""
    async with visit(nodes[0], **visitor) as here, visit(nodes[1], **visitor) as there:
        yield here, there


async def opens(gateway: Gateway) -> None:
    async with gateway.tab():
        pass


async def test_a_handshake_with_one_node_is_one_with_all(limited_nodes: BeginNodes) -> None:
    async with (
        limited_nodes(handshakes_per_minute=SLOW) as nodes,
        visit_both(nodes, address=HERE) as (here, there),
        visit(nodes[1], address=THERE) as other,
    ):
        await opens(here)
        for node in (there, here):
            told = problem(await denied(node), 429, "rate_limited")
            assert 0 < told["retry_after_ms"] <= 60_000
        await opens(other)


async def test_a_session_begun_on_one_node_is_one_on_all(limited_nodes: BeginNodes) -> None:
    async with (
        limited_nodes(sessions_per_minute=SLOW, api_keys=KEYS) as nodes,
        visit_both(nodes, key=ALICE) as (here, there),
        visit(nodes[1], key=BOB) as bob,
    ):
        await opens(here)
        for node in (there, here):
            error, code = await turned_away(node)
            assert (error["code"], code) == ("rate_limited", 4003)
            refused = await node.http.post("/api/sessions", json={})
            assert problem(refused, 429, "rate_limited")["retry_after_ms"] > 0
        await opens(bob)


async def test_a_message_on_one_node_is_one_on_all_and_is_recognised_on_all(
    limited_nodes: BeginNodes, model: ScriptedModel
) -> None:
    model.autoreply(lambda messages: ["네"])
    async with (
        limited_nodes(messages_per_minute=SLOW, api_keys=KEYS) as nodes,
        visit_both(nodes, key=ALICE) as (here, there),
        here.tab() as phone,
        there.tab(phone.session_id) as laptop,
    ):
        await phone.chat("안녕", request_id="r1")
        await phone.ends()
        await laptop.ends()
        error = await laptop.refused(type="chat", message="또", request_id="r2")
        assert (error["code"], error["request_id"]) == ("rate_limited", "r2")
        repeated = await laptop.chat("안녕", request_id="r1")
        assert (repeated["turn"], repeated["duplicate"]) == (1, True)


async def test_somebodys_sessions_are_counted_on_all_nodes(limited_nodes: BeginNodes) -> None:
    async with (
        limited_nodes(max_sessions=2, api_keys=KEYS) as nodes,
        visit_both(nodes, key=ALICE) as (here, there),
    ):
        first, _ = await here.new_session(), await there.new_session()
        for node in (here, there):
            refused = await node.http.post("/api/sessions", json={})
            problem(refused, 429, "rate_limited")
        await there.http.delete(f"/api/sessions/{first}")
        await here.new_session()


async def test_somebodys_open_turns_are_counted_on_all_nodes_and_cancelled_on_any(
    limited_nodes: BeginNodes, model: ScriptedModel
) -> None:
    async with (
        limited_nodes(max_open_turns=2, api_keys=KEYS) as nodes,
        visit_both(nodes, key=ALICE) as (here, there),
        here.tab() as first,
        there.tab() as second,
        here.tab() as third,
        there.tab() as fourth,
        here.tab(second.session_id) as other_tab,
    ):
        for tab in (first, second):
            await tab.chat("안녕", request_id="r1")
        for tab in (third, fourth):
            error = await tab.refused(type="chat", message="안녕")
            assert error["code"] == "rate_limited"
            assert "2 messages open" in error["message"]
        assert (await other_tab.chat("안녕", request_id="r1"))["duplicate"] is True
        await other_tab.send(type="cancel")
        assert (await second.ends())["finish_reason"] == "cancelled"
        await third.chat("안녕")
        assert (await fourth.refused(type="chat", message="안녕"))["code"] == "rate_limited"


async def test_of_many_turns_asked_for_on_all_nodes_at_once_no_more_are_opened_than_may_be(
    limited_nodes: BeginNodes, model: ScriptedModel
) -> None:
    async with (
        limited_nodes(max_open_turns=3, llm_max_concurrency=16, api_keys=KEYS) as nodes,
        visit_both(nodes, key=ALICE) as both,
        AsyncExitStack() as stack,
    ):
        tabs = [await stack.enter_async_context(node.tab()) for node in both for _ in range(4)]
        async with anyio.create_task_group() as tasks:
            for tab in tabs:
                tasks.start_soon(ask, tab)
        answers = [tab.frames[0]["type"] for tab in tabs]
        assert sorted(answers) == ["accepted"] * 3 + ["error"] * 5


async def ask(tab: Tab) -> None:
    await tab.send(type="chat", message="안녕")
    await tab.next("accepted", "error")


async def test_while_redis_is_away_each_node_counts_for_itself_and_lets_people_in(
    limited_nodes: BeginNodes, own_redis: RedisServer
) -> None:
    limits = {"handshakes_per_minute": SLOW, "sessions_per_minute": SLOW, "api_keys": KEYS}
    async with (
        limited_nodes(broker_url=own_redis.url, **limits) as nodes,
        visit_both(nodes, key=ALICE, address=HERE) as (here, there),
    ):
        await opens(here)
        assert (await denied(there)).status_code == 429
        own_redis.kill()
        for node in (here, there):
            await opens(node)
            assert (await denied(node)).status_code == 429
            refused = await node.http.post("/api/sessions", json={})
            problem(refused, 429, "rate_limited")
