"""Cancelling a turn: queued, before its first text, in the middle, from anywhere."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.gateway.harness import WITHIN_S, Gateway, call_of, in_process, settings_for
from tests.llm.scripted import ScriptedModel


async def test_a_turn_is_cancelled_in_the_middle_and_keeps_its_text(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await tab.chat("hi")
        call = await call_of(model)
        await call.say("one ", "two ")
        await tab.text_until("one two ")
        await tab.send(type="cancel", turn=1)
        complete = await tab.next("complete")
        assert complete["finish_reason"] == "cancelled"
        assert complete["id"] == "1.1.end"
        assert complete["total_tokens"] == 2
        with anyio.fail_after(WITHIN_S):
            await call.closed()
        [_, reply] = (await tab.history())["messages"]
        assert (reply["content"], reply["finish_reason"]) == ("one two ", "cancelled")
        assert reply["message_id"] == complete["message_id"]
    assert gateway.replies() == [("cancelled", "one two ")]


async def test_a_turn_is_cancelled_before_its_first_text(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await tab.chat("hi")
        call = await call_of(model)
        await tab.say("/cancel")
        complete = await tab.next("complete")
        assert complete["finish_reason"] == "cancelled"
        assert complete["timing"]["first_token_ms"] is None
        with anyio.fail_after(WITHIN_S):
            await call.closed()
    # Its reply row exists, even empty.
    assert gateway.replies() == [("cancelled", "")]


async def test_a_queued_turn_is_cancelled_without_the_model_hearing_of_it(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as first, gateway.tab() as second, gateway.tab() as third:
        await first.chat("first")
        call = await call_of(model)
        await second.chat("second")
        await second.next("queued")
        await third.chat("third")
        await second.say("/cancel")
        complete = await second.next("complete")
        assert complete["finish_reason"] == "cancelled"
        assert complete["timing"]["first_token_ms"] is None
        await call.complete()
        assert (await call_of(model)).messages[-1]["content"] == "third"


async def test_cancelling_names_the_turn_or_means_the_open_one(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await gateway.exchange(tab, model, "q1", "a1")
        await tab.chat("q2")
        await call_of(model)
        for wrong in (1, 3):
            error = await tab.refused(type="cancel", turn=wrong, request_id=f"c{wrong}")
            assert (error["code"], error["request_id"]) == ("nothing_to_cancel", f"c{wrong}")
            assert "turn" not in error
        await tab.say("/cancel 2")
        assert (await tab.ends(2))["finish_reason"] == "cancelled"


async def test_with_nothing_open_there_is_nothing_to_cancel(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        error = await tab.refused(type="cancel")
        assert (error["code"], error["retryable"]) == ("nothing_to_cancel", False)
        await gateway.exchange(tab, model, "q1", "a1")
        assert (await tab.refused(type="cancel"))["code"] == "nothing_to_cancel"


async def test_a_session_cannot_cancel_the_turn_of_another(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab, gateway.tab() as stranger:
        await tab.chat("hi")
        call = await call_of(model)
        assert (await stranger.refused(type="cancel"))["code"] == "nothing_to_cancel"
        await call.complete()
        assert (await tab.ends())["finish_reason"] == "stop"


async def test_cancelling_twice_ends_the_turn_once(gateway: Gateway, model: ScriptedModel) -> None:
    async with gateway.tab() as tab, gateway.tab(tab.session_id) as other:
        await tab.chat("hi")
        await call_of(model)
        await tab.say("/cancel")
        await other.say("/cancel")
        await tab.ends()
        await other.ends()
        ends = [f for f in await tab.settle() if f["type"] in ("complete", "error") and "id" in f]
        assert len(ends) == 1


async def test_over_rest_a_turn_is_cancelled_with_202(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await tab.chat("hi")
        await call_of(model)
        path = f"/api/sessions/{tab.session_id}/cancel"
        wrong = await gateway.http.post(path, json={"turn": 2})
        assert (wrong.status_code, wrong.json()["code"]) == (409, "nothing_to_cancel")
        cancelled = await gateway.http.post(path, json={"turn": 1})
        assert (cancelled.status_code, cancelled.json()) == (202, {"turn": 1})
        assert (await tab.ends())["finish_reason"] == "cancelled"
        again = await gateway.http.post(path)
        assert (again.status_code, again.json()["code"]) == (409, "nothing_to_cancel")


@pytest.mark.parametrize("body", [None, b"", b"{}", b"null"])
async def test_over_rest_the_body_may_be_missing(
    gateway: Gateway, model: ScriptedModel, body: bytes | None
) -> None:
    async with gateway.tab() as tab:
        await tab.chat("hi")
        await call_of(model)
        cancelled = await gateway.http.post(f"/api/sessions/{tab.session_id}/cancel", content=body)
        assert cancelled.status_code == 202


async def test_over_rest_an_unknown_session_is_404(gateway: Gateway) -> None:
    cancelled = await gateway.http.post("/api/sessions/nobody/cancel")
    assert (cancelled.status_code, cancelled.json()["code"]) == (404, "session_not_found")


async def test_a_cancelled_question_over_rest_is_answered_with_what_there_is(
    gateway: Gateway, model: ScriptedModel
) -> None:
    session_id = await gateway.new_session()
    replies: list[Any] = []

    async def ask() -> None:
        body = {"session_id": session_id, "message": "hi"}
        replies.append(await gateway.http.post("/api/chat", json=body))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await call_of(model)
        await gateway.http.post(f"/api/sessions/{session_id}/cancel")
    assert replies[0].status_code == 200
    assert replies[0].json()["finish_reason"] == "cancelled"
    assert replies[0].json()["content"] == ""


async def test_the_model_cools_down_after_a_cancel(tmp_path: Path, model: ScriptedModel) -> None:
    # midm goes on generating for a client that has left, so the next call would wait inside it.
    settings = settings_for(tmp_path / "chat.db", model.url, llm_cool_down_s=3_600)
    async with in_process(settings) as gateway, gateway.tab() as tab, gateway.tab() as other:
        await tab.chat("hi")
        await call_of(model)
        await tab.say("/cancel")
        await tab.ends()
        await other.chat("next")
        queued = await other.next("queued")
        assert queued["position"] == 1
        assert gateway.house.admission.calls == 1


async def test_after_cooling_down_the_next_turn_is_served(
    tmp_path: Path, model: ScriptedModel
) -> None:
    settings = settings_for(tmp_path / "chat.db", model.url, llm_cool_down_s=0.05)
    async with in_process(settings) as gateway, gateway.tab() as tab:
        await tab.chat("hi")
        await call_of(model)
        await tab.say("/cancel")
        await tab.ends()
        await tab.chat("next")
        await tab.next("queued")
        assert (await call_of(model)).messages[-1]["content"] == "next"


async def test_a_turn_cancelled_in_the_queue_needs_no_cooling_down(
    tmp_path: Path, model: ScriptedModel
) -> None:
    settings = settings_for(tmp_path / "chat.db", model.url, llm_cool_down_s=3_600)
    async with in_process(settings) as gateway, gateway.tab() as tab, gateway.tab() as other:
        await tab.chat("hi")
        call = await call_of(model)
        await other.chat("waits")
        await other.next("queued")
        await other.say("/cancel")
        await other.ends()
        await call.complete()
        await tab.ends()
        await tab.chat("next")
        assert (await call_of(model)).messages[-1]["content"] == "next"
