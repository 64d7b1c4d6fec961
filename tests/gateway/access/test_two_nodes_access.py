"""Two nodes, one gate: who may do what does not depend on the node that is asked."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import anyio
import pytest

from gateway.settings import Settings
from tests.gateway.access.people import (
    ALICE_BY_KEY,
    ALICE_BY_TOKEN,
    ANONYMOUS,
    BOB_BY_KEY,
    KEYS,
    NOBODY,
    NOT_FOUND,
    TOKENS,
    UNAUTHORIZED,
    Person,
    joined,
    line,
    new_session,
    outcome,
    ticket,
)
from tests.gateway.harness import WITHIN_S, Gateway, call_of, in_process
from tests.llm.scripted import ScriptedModel
from tests.servers.redis import RedisServer

Nodes = tuple[Gateway, Gateway]


@pytest.fixture
def member(postgres_url: str, redis_url: str, redis_prefix: str, model: ScriptedModel) -> Settings:
    """How each node of a test is run."""
    return Settings(
        _env_file=None,
        port=0,
        database_url=postgres_url,
        broker_url=redis_url,
        broker_prefix=redis_prefix,
        database_connections=3,
        llm_server_url=model.url,
        llm_max_concurrency=4,
        llm_cool_down_s=0,
        drain_seconds=0,
        **KEYS,
        **TOKENS,
    )


@pytest.fixture
async def nodes(member: Settings) -> AsyncIterator[Nodes]:
    """Two gateways that share a database, a broker and those who may come in."""
    async with AsyncExitStack() as stack:
        here, there = [await stack.enter_async_context(in_process(member)) for _ in range(2)]
        yield here, there


async def codes(gateway: Gateway, person: Person, session_id: str) -> set[tuple[int, str]]:
    """How somebody is answered who tries everything with a session."""
    http, headers = gateway.http, person.headers
    asks = {"session_id": session_id, "message": "안녕"}
    path = f"/api/sessions/{session_id}"
    answers = [
        await http.get(path, headers=headers),
        await http.get(f"{path}/messages", headers=headers),
        await http.get(f"{path}/events", headers=headers),
        await http.post(f"{path}/cancel", json={}, headers=headers),
        await http.post(f"{path}/cancel", json={"turn": 1}, headers=headers),
        await http.post("/api/chat", json=asks, headers=headers),
        await http.post("/api/chat/stream", json=asks, headers=headers),
        await http.delete(path, headers=headers),
    ]
    assert await outcome(gateway, person, session_id=session_id) == NOT_FOUND
    return {(answer.status_code, answer.json()["code"]) for answer in answers}


@pytest.mark.parametrize("person", [ALICE_BY_KEY, ALICE_BY_TOKEN], ids=str)
async def test_a_ticket_of_one_node_opens_a_socket_on_the_other_once(
    nodes: Nodes, person: Person
) -> None:
    here, there = nodes
    session_id = await new_session(here, person)
    once = await ticket(here, person)
    async with line(there, session_id=session_id, ticket=once) as socket:
        assert (await joined(socket)).session_id == session_id
    for gateway in nodes:
        assert await outcome(gateway, ANONYMOUS, ticket=once) == UNAUTHORIZED


async def test_of_many_who_use_a_ticket_at_once_one_gets_in(nodes: Nodes) -> None:
    once = await ticket(nodes[0], ALICE_BY_KEY)
    told: list[str] = []

    async def try_it(gateway: Gateway) -> None:
        async with line(gateway, ticket=once) as socket:
            told.append(json.loads(await socket.receive_text())["type"])

    with anyio.fail_after(WITHIN_S):
        async with anyio.create_task_group() as tasks:
            for gateway in nodes * 4:
                tasks.start_soon(try_it, gateway)
    assert sorted(told) == ["error"] * 7 + ["ready"]


async def test_a_ticket_leads_to_nobody_elses_session_on_any_node(nodes: Nodes) -> None:
    here, there = nodes
    session_id = await new_session(here, ALICE_BY_KEY)
    bobs = await ticket(here, BOB_BY_KEY)
    assert await outcome(there, ANONYMOUS, session_id=session_id, ticket=bobs) == NOT_FOUND


@pytest.mark.parametrize("other", [BOB_BY_KEY, ALICE_BY_TOKEN], ids=str)
async def test_ownership_holds_on_every_node_even_while_a_turn_runs(
    nodes: Nodes, model: ScriptedModel, other: Person
) -> None:
    here, _ = nodes
    async with here.tab(headers=ALICE_BY_KEY.headers) as tab:
        await tab.chat("안녕")
        call = await call_of(model)
        await call.say("하나 ")
        await tab.text_until("하나 ")
        for gateway in nodes:
            foreign = await codes(gateway, other, tab.session_id)
            assert foreign == await codes(gateway, other, NOBODY) == {(404, "session_not_found")}
        await call.say("둘")
        await call.complete()
        assert (await tab.ends())["finish_reason"] == "stop"
        assert tab.text() == "하나 둘"


async def test_its_owner_cancels_and_deletes_on_any_node(
    nodes: Nodes, model: ScriptedModel
) -> None:
    here, there = nodes
    async with here.tab(headers=ALICE_BY_KEY.headers) as tab:
        await tab.chat("안녕")
        await call_of(model)
        path = f"/api/sessions/{tab.session_id}"
        asked = await there.http.post(f"{path}/cancel", json={}, headers=ALICE_BY_KEY.headers)
        assert asked.status_code == 202
        assert (await tab.ends())["finish_reason"] == "cancelled"
        deleted = await there.http.delete(path, headers=ALICE_BY_KEY.headers)
        assert deleted.status_code == 204
        assert await tab.closed() == 4504


async def test_a_list_is_the_same_on_every_node(nodes: Nodes) -> None:
    here, there = nodes
    made = [await new_session(gateway, ALICE_BY_KEY) for gateway in (here, there, here)]
    await new_session(there, BOB_BY_KEY)
    for gateway in nodes:
        listed = await gateway.http.get("/api/sessions", headers=ALICE_BY_KEY.headers)
        assert [each["session_id"] for each in listed.json()["sessions"]] == made[::-1]


async def test_what_a_turn_costs_its_owner_it_costs_on_every_node(
    member: Settings, model: ScriptedModel
) -> None:
    sparing = member.model_copy(update={"max_open_turns": 1})
    async with (
        in_process(sparing) as here,
        in_process(sparing) as there,
        here.tab(headers=ALICE_BY_KEY.headers) as first,
        there.tab(headers=ALICE_BY_KEY.headers) as second,
        there.tab(headers=BOB_BY_KEY.headers) as bobs,
    ):
        await first.chat("안녕")
        await call_of(model)
        refused = await second.refused(type="chat", message="안녕")
        assert refused["code"] == "rate_limited"
        assert (await bobs.chat("안녕"))["turn"] == 1


async def test_a_ticket_that_nobody_can_look_up_is_told_so_and_may_be_tried_again(
    member: Settings, own_redis: RedisServer
) -> None:
    shared = member.model_copy(update={"broker_url": own_redis.url})
    async with in_process(shared) as gateway:
        session_id = await new_session(gateway, ALICE_BY_KEY)
        once = await ticket(gateway, ALICE_BY_KEY)
        own_redis.kill()
        events = await gateway.http.get(f"/api/sessions/{session_id}/events?ticket={once}")
        assert (events.status_code, events.json()["code"]) == (503, "storage_error")
        assert await outcome(gateway, ANONYMOUS, ticket=once) == (["storage_error"], 1013)
        issued = await gateway.http.post("/api/tickets", headers=ALICE_BY_KEY.headers)
        assert (issued.status_code, issued.json()["code"]) == (503, "storage_error")
