"""One model, many sessions: who is next, what those who wait are told, when the queue is full."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from llm import queue
from tests.gateway.harness import Gateway, Tab, call_of, in_process, settings_for
from tests.llm.scripted import ScriptedModel


@pytest.fixture(autouse=True)
def _positions_are_told_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "MOVES_EVERY_S", 0.01)


async def several(stack: AsyncExitStack, gateway: Gateway, count: int) -> list[Tab]:
    return [await stack.enter_async_context(gateway.tab()) for _ in range(count)]


async def test_those_who_wait_hear_their_position_on_every_tab(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with AsyncExitStack() as stack:
        one, two, three = await several(stack, gateway, 3)
        also_three = await stack.enter_async_context(gateway.tab(three.session_id))
        await one.chat("first")
        await call_of(model)
        assert (await two.chat("second"))["status"] == "queued"
        assert await two.next("queued") == {"type": "queued", "turn": 1, "position": 1}
        await three.chat("third")
        for tab in (three, also_three):
            queued = await tab.next("queued")
            assert queued["position"] == 2
            assert "id" not in queued
        # Whoever joins later hears of it too, behind the `start`.
        late = await stack.enter_async_context(gateway.tab(three.session_id))
        assert (await late.next("queued"))["position"] == 2
        assert late.kinds() == ["start", "queued"]


async def test_a_turn_that_does_not_wait_is_never_queued(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await gateway.exchange(tab, model, "hi", "hello")
        assert "queued" not in tab.kinds()


async def test_positions_move_and_come_with_an_estimate(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with AsyncExitStack() as stack:
        one, two, three = await several(stack, gateway, 3)
        await one.chat("first")
        call = await call_of(model)
        await two.chat("second")
        await three.chat("third")
        first = await three.next("queued")
        assert first["position"] == 2
        # Nobody has been served yet, so there is nothing to estimate from.
        assert "eta_ms" not in first
        await call.complete()
        second_call = await call_of(model)
        moved = await three.next("queued")
        assert moved["position"] == 1
        assert moved["eta_ms"] >= 1
        await second_call.complete()
        third_call = await call_of(model)
        await third_call.say("at last")
        await third_call.complete()
        assert (await three.ends())["timing"]["queue_ms"] >= 0
        assert three.text() == "at last"


async def test_who_came_first_is_served_first_and_nobody_stands_twice(
    gateway: Gateway, model: ScriptedModel
) -> None:
    # One session asks again and again; the others still get their turn between.
    async with AsyncExitStack() as stack:
        greedy, two, three = await several(stack, gateway, 3)
        await greedy.chat("greedy 1")
        call = await call_of(model)
        await two.chat("two")
        await three.chat("three")
        await call.complete()
        await greedy.ends(1)
        await greedy.chat("greedy 2")
        served = []
        for _ in range(3):
            call = await call_of(model)
            served.append(call.messages[-1]["content"])
            await call.complete()
    assert served == ["two", "three", "greedy 2"]


async def test_when_as_many_wait_as_may_the_next_is_refused_and_told_when_to_try(
    tmp_path: Path, model: ScriptedModel
) -> None:
    settings = settings_for(tmp_path / "chat.db", model.url, llm_max_waiting=1)
    async with in_process(settings) as gateway, AsyncExitStack() as stack:
        one, two, three = await several(stack, gateway, 3)
        await gateway.exchange(one, model, "warm up", "done")
        await one.chat("first")
        call = await call_of(model)
        await two.chat("second")
        error = await three.refused(type="chat", message="third", request_id="r3")
        assert (error["code"], error["retryable"]) == ("queue_full", True)
        assert error["retry_after_ms"] >= 1
        body = {"session_id": three.session_id, "message": "third", "request_id": "r3"}
        for path in ("/api/chat", "/api/chat/stream"):
            refused = await gateway.http.post(path, json=body)
            assert refused.status_code == 503
            assert int(refused.headers["Retry-After"]) >= 1
            assert refused.json()["code"] == "queue_full"
        assert gateway.rows("SELECT * FROM turns WHERE session_id = ?", three.session_id) == []
        await call.complete()
        await one.ends(2)
        await call_of(model)
        assert (await three.chat("third", request_id="r3"))["duplicate"] is False


async def test_several_calls_at_once_where_the_model_can_take_them(
    tmp_path: Path, model: ScriptedModel
) -> None:
    settings = settings_for(tmp_path / "chat.db", model.url, llm_max_concurrency=2)
    async with in_process(settings) as gateway, AsyncExitStack() as stack:
        one, two, three = await several(stack, gateway, 3)
        await one.chat("first")
        await two.chat("second")
        asked = {(await call_of(model)).messages[-1]["content"] for _ in range(2)}
        assert asked == {"first", "second"}
        await three.chat("third")
        assert (await three.next("queued"))["position"] == 1


@pytest.mark.parametrize("ending", ["complete", "error", "cancelled", "vanished"])
async def test_however_a_turn_ends_its_place_is_given_on(
    gateway: Gateway, model: ScriptedModel, ending: str
) -> None:
    async with gateway.tab() as one, gateway.tab() as two:
        await one.chat("first")
        call = await call_of(model)
        await call.say("one ")
        await one.text_until("one ")
        await two.chat("second")
        await two.next("queued")
        match ending:
            case "complete":
                await call.complete()
            case "error":
                await call.error()
            case "cancelled":
                await one.say("/cancel")
            case "vanished":
                await call.vanish()
        assert (await call_of(model)).messages[-1]["content"] == "second"
        assert gateway.house.admission.waiting == 0
        assert gateway.house.admission.calls == 1


async def test_deleting_a_session_frees_its_place_in_the_queue(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with AsyncExitStack() as stack:
        one, two, three = await several(stack, gateway, 3)
        await one.chat("first")
        await call_of(model)
        await two.chat("second")
        await two.next("queued")
        await three.chat("third")
        assert (await three.next("queued"))["position"] == 2
        await gateway.http.delete(f"/api/sessions/{two.session_id}")
        assert (await three.next("queued"))["position"] == 1
        await gateway.http.delete(f"/api/sessions/{one.session_id}")
        assert (await call_of(model)).messages[-1]["content"] == "third"


async def test_one_open_turn_at_a_time_per_session(gateway: Gateway, model: ScriptedModel) -> None:
    async with gateway.tab() as tab, gateway.tab(tab.session_id) as other:
        await tab.chat("first")
        call = await call_of(model)
        for each in (tab, other):
            error = await each.refused(type="chat", message="second", request_id="r")
            assert (error["code"], error["retryable"]) == ("turn_in_progress", True)
            assert "turn" not in error
        body = {"session_id": tab.session_id, "message": "second"}
        for path in ("/api/chat", "/api/chat/stream"):
            refused = await gateway.http.post(path, json=body)
            assert (refused.status_code, refused.json()["code"]) == (409, "turn_in_progress")
            assert refused.json()["retryable"] is True
        await call.complete()
        await tab.ends()
        assert (await tab.chat("second", request_id="r"))["turn"] == 2
        # A refusal gives back the place it was about to take.
        assert gateway.house.admission.calls == 1
        assert gateway.house.admission.waiting == 0
