"""One conversation, two gateways: whatever a client does, it need not know which one it is on."""

import anyio
import httpx
import pytest

from gateway.settings import Settings
from storage.operations import MaybeStored, Operation
from tests.gateway.harness import WITHIN_S, Gateway, call_of, in_process
from tests.llm.scripted import ScriptedModel

Nodes = tuple[Gateway, Gateway]


async def ready(gateway: Gateway) -> httpx.Response:
    return await gateway.http.get("/readyz")


async def test_a_tab_on_another_node_sees_the_turn_live(nodes: Nodes, model: ScriptedModel) -> None:
    here, there = nodes
    async with here.tab() as phone, there.tab(phone.session_id) as laptop:
        await phone.chat("안녕")
        call = await call_of(model)
        assert (await laptop.next("start"))["user_message"]["content"] == "안녕"
        await call.say("반갑")
        await laptop.text_until("반갑")
        await call.say("습니다")
        await laptop.text_until("반갑습니다")
        await call.complete()
        assert (await laptop.ends()) == (await phone.ends())
        assert laptop.text() == phone.text() == "반갑습니다"


async def test_a_reply_is_read_on_from_a_cursor_on_another_node(
    nodes: Nodes, model: ScriptedModel
) -> None:
    here, there = nodes
    async with here.tab() as tab:
        await tab.chat("안녕")
        call = await call_of(model)
        await call.say("하나 ")
        await tab.text_until("하나 ")
    async with there.tab(tab.session_id, after=tab.cursor) as tab:
        assert tab.ready["resumed"] is True
        assert tab.ready["turn"] == {"turn": 1, "status": "running"}
        await call.say("둘")
        await call.complete()
        await tab.ends()
        assert tab.text() == "둘"


async def test_who_joins_on_another_node_gets_the_open_turn_from_its_start(
    nodes: Nodes, model: ScriptedModel
) -> None:
    here, there = nodes
    async with here.tab() as tab:
        await tab.chat("안녕")
        call = await call_of(model)
        await call.say("하나 ")
        await tab.text_until("하나 ")
        async with there.tab(tab.session_id) as other:
            await other.text_until("하나 ")
            await call.say("둘")
            await call.complete()
            await other.ends()
            assert other.text() == "하나 둘"


async def test_a_turn_is_cancelled_from_another_node(nodes: Nodes, model: ScriptedModel) -> None:
    here, there = nodes
    async with here.tab() as phone, there.tab(phone.session_id) as laptop:
        await phone.chat("안녕")
        call = await call_of(model)
        await call.say("하나 ")
        await laptop.text_until("하나 ")
        await laptop.send(type="cancel")
        for tab in (phone, laptop):
            ending = await tab.ends()
            assert ending["finish_reason"] == "cancelled"
            assert tab.text() == "하나 "


async def test_nothing_open_is_nothing_to_cancel_on_any_node(nodes: Nodes) -> None:
    here, there = nodes
    session_id = await here.new_session()
    answer = await there.http.post(f"/api/sessions/{session_id}/cancel", json={})
    assert (answer.status_code, answer.json()["code"]) == (409, "nothing_to_cancel")


async def test_a_session_deleted_on_one_node_is_gone_on_the_other(
    nodes: Nodes, model: ScriptedModel
) -> None:
    here, there = nodes
    async with here.tab() as phone, there.tab(phone.session_id) as laptop:
        await phone.chat("안녕")
        await call_of(model)
        await laptop.next("start")
        deleted = await there.http.delete(f"/api/sessions/{phone.session_id}")
        assert deleted.status_code == 204
        assert await laptop.closed() == 4504
        assert await phone.closed() == 4504
    with anyio.fail_after(WITHIN_S):
        while here.house.turns.running:
            await anyio.lowlevel.checkpoint()


async def test_a_repeat_on_another_node_is_the_same_turn(
    nodes: Nodes, model: ScriptedModel
) -> None:
    here, there = nodes
    async with here.tab() as phone, there.tab(phone.session_id) as laptop:
        await phone.chat("안녕", request_id="a1")
        call = await call_of(model)
        repeated = await laptop.chat("안녕", request_id="a1")
        assert (repeated["turn"], repeated["duplicate"]) == (1, True)
        assert repeated["status"] == "running"
        await call.complete()
        await laptop.ends()


async def test_one_turn_at_a_time_is_decided_by_the_database(
    nodes: Nodes, model: ScriptedModel
) -> None:
    here, there = nodes
    async with here.tab() as phone, there.tab(phone.session_id) as laptop:
        await phone.send(type="chat", message="나")
        await laptop.send(type="chat", message="너")
        answers = [await tab.next("accepted", "error") for tab in (phone, laptop)]
        assert sorted(answer.get("code", "accepted") for answer in answers) == [
            "accepted",
            "turn_in_progress",
        ]
        await (await call_of(model)).complete()


async def test_the_whole_reply_over_rest_from_a_node_that_does_not_run_the_turn(
    nodes: Nodes, model: ScriptedModel
) -> None:
    here, there = nodes
    session_id = await here.new_session()
    body = {"session_id": session_id, "message": "안녕", "request_id": "a1"}
    replies: list[httpx.Response] = []

    async def ask(gateway: Gateway) -> None:
        replies.append(await gateway.http.post("/api/chat", json=body))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, here)
        call = await call_of(model)
        tasks.start_soon(ask, there)
        await call.answer("전부")
    assert [reply.json()["content"] for reply in replies] == ["전부", "전부"]


async def test_calls_of_all_nodes_count_against_one_limit(
    member: Settings, model: ScriptedModel
) -> None:
    one_call = member.model_copy(update={"llm_max_concurrency": 1})
    async with (
        in_process(one_call) as here,
        in_process(one_call) as there,
        here.tab() as first,
        there.tab() as second,
    ):
        await first.chat("하나")
        call = await call_of(model)
        assert (await second.chat("둘"))["status"] == "queued"
        assert (await second.next("queued"))["position"] == 1
        await call.complete()
        await first.ends()
        call = await call_of(model)
        await call.say("2")
        await call.complete()
        await second.ends()
        assert second.text() == "2"


async def test_health_tells_which_node_it_is_and_what_it_uses(nodes: Nodes) -> None:
    told = [(await gateway.http.get("/api/health")).json() for gateway in nodes]
    assert told[0]["node"] != told[1]["node"]
    for health in told:
        assert (health["database"], health["database_connected"]) == ("postgresql", True)
        assert (health["broker"], health["broker_connected"]) == ("redis", True)
    assert [(await ready(gateway)).status_code for gateway in nodes] == [200, 200]


async def test_without_its_broker_a_node_takes_nothing_new_and_says_so(
    member: Settings, model: ScriptedModel, free_port: int
) -> None:
    alone = member.model_copy(update={"broker_url": f"redis://127.0.0.1:{free_port}"})
    async with in_process(alone) as gateway, gateway.tab() as tab:
        answer = await ready(gateway)
        assert (answer.status_code, answer.json()["missing"]) == (503, ["broker"])
        assert (await gateway.http.get("/api/health")).json()["status"] == "degraded"
        refused = await tab.refused(type="chat", message="안녕", request_id="a1")
        assert (refused["code"], refused["retryable"]) == ("storage_error", True)
        assert (await tab.history())["messages"] == []


async def test_a_deletion_whose_commit_was_never_heard_of_is_told_to_everybody(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = nodes
    write = here.house.database.write

    async def lose_the_answer(operation: Operation[object]) -> object:
        outcome = await write(operation)
        if getattr(operation, "__name__", "") == "remove":
            raise MaybeStored("the connection was lost")
        return outcome

    monkeypatch.setattr(here.house.database, "write", lose_the_answer)
    async with here.tab() as phone, there.tab(phone.session_id) as laptop:
        deleted = await here.http.delete(f"/api/sessions/{phone.session_id}")
        assert deleted.status_code == 204
        assert await phone.closed() == 4504
        assert await laptop.closed() == 4504
