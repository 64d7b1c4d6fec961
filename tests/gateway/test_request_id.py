"""`request_id`: sending exactly once, on any transport, however often it is sent."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.gateway.harness import Gateway, call_of, in_process, settings_for
from tests.llm.scripted import ScriptedModel


async def test_a_repeat_after_the_end_is_the_same_turn_and_nothing_is_sent_again(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await gateway.exchange(tab, model, "hi", "hello", request_id="r1")
        before = len(tab.frames)
        again = await tab.chat("hi", request_id="r1")
        assert again == {
            "type": "accepted",
            "turn": 1,
            "request_id": "r1",
            "duplicate": True,
            "status": "complete",
        }
        await tab.settle()
        assert [f["type"] for f in tab.frames[before:]] == ["accepted", "pong", "pong"]
    assert len(gateway.rows("SELECT * FROM turns")) == 1
    assert len(gateway.rows("SELECT * FROM messages")) == 2


async def test_a_repeat_while_the_turn_runs_joins_it(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await tab.chat("hi", request_id="r1")
        call = await call_of(model)
        await call.say("one ")
        await tab.text_until("one ")
        again = await tab.chat("hi", request_id="r1")
        assert (again["duplicate"], again["status"], again["turn"]) == (True, "running", 1)
        await call.say("two")
        await call.complete()
        await tab.ends()
        assert tab.text() == "one two"
        assert [f["type"] for f in tab.frames].count("start") == 1


async def test_a_repeat_on_another_tab_is_answered_there(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab, gateway.tab(tab.session_id) as other:
        await tab.chat("hi", request_id="r1")
        call = await call_of(model)
        assert (await other.chat("hi", request_id="r1"))["duplicate"] is True
        await call.complete()
        await tab.ends()
        await other.ends()
        assert [f["type"] for f in tab.frames].count("accepted") == 1


async def test_a_repeat_on_another_transport_is_recognised(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        complete = await gateway.exchange(tab, model, "hi", "hello", request_id="r1")
        body = {"session_id": tab.session_id, "message": "hi", "request_id": "r1"}
        reply = (await gateway.http.post("/api/chat", json=body)).json()
    assert (reply["message_id"], reply["content"]) == (complete["message_id"], "hello")
    assert len(gateway.rows("SELECT * FROM turns")) == 1


async def test_a_turn_whose_answer_was_lost_is_found_again_on_reconnect(
    gateway: Gateway, model: ScriptedModel
) -> None:
    session_id = await gateway.new_session()
    async with gateway.tab(session_id) as tab:
        await tab.send(type="chat", message="hi", request_id="r1")
        call = await call_of(model)
    await call.say("hello")
    await call.complete()
    async with gateway.tab(session_id, after="0.0.end") as back:
        await back.ends()
        assert (await back.chat("hi", request_id="r1"))["duplicate"] is True
        assert back.text() == "hello"
    assert len(gateway.rows("SELECT * FROM turns")) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"message": "something else"},
        {"message": "hi", "max_new_tokens": 9},
        {"message": "hi", "temperature": 0.1},
        {"message": "hi", "do_sample": False},
        {"message": "hi", "replaces": 1},
    ],
)
async def test_the_same_id_with_different_content_is_a_conflict(
    gateway: Gateway, model: ScriptedModel, other: dict[str, Any]
) -> None:
    async with gateway.tab() as tab:
        await gateway.exchange(tab, model, "hi", "hello", request_id="r1")
        error = await tab.refused(type="chat", request_id="r1", **other)
        assert (error["code"], error["retryable"]) == ("request_id_conflict", False)
        assert error["request_id"] == "r1"
        body = {"session_id": tab.session_id, "request_id": "r1", **other}
        assert (await gateway.http.post("/api/chat", json=body)).status_code == 409
    assert len(gateway.rows("SELECT * FROM turns")) == 1


async def test_ids_belong_to_their_session(gateway: Gateway, model: ScriptedModel) -> None:
    model.autoreply(lambda _: ["ok"])
    async with gateway.tab() as one, gateway.tab() as two:
        assert (await one.chat("hi", request_id="r1"))["duplicate"] is False
        assert (await two.chat("bye", request_id="r1"))["duplicate"] is False


async def test_a_refused_request_does_not_use_up_its_id(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await tab.chat("first")
        call = await call_of(model)
        error = await tab.refused(type="chat", message="second", request_id="r2")
        assert (error["code"], error["retryable"]) == ("turn_in_progress", True)
        await call.complete()
        await tab.ends()
        assert (await tab.chat("second", request_id="r2"))["duplicate"] is False


async def test_a_repeat_is_recognised_before_turn_in_progress(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await gateway.exchange(tab, model, "first", "one", request_id="r1")
        await tab.chat("second")
        assert (await tab.chat("first", request_id="r1"))["turn"] == 1


async def test_a_repeat_is_recognised_before_queue_full(
    tmp_path: Path, model: ScriptedModel
) -> None:
    settings = settings_for(tmp_path / "chat.db", model.url, llm_max_waiting=0)
    async with in_process(settings) as gateway, gateway.tab() as tab, gateway.tab() as busy:
        await gateway.exchange(tab, model, "first", "one", request_id="r1")
        await busy.chat("keeps the model busy")
        error = await tab.refused(type="chat", message="new", request_id="r2")
        assert (error["code"], error["retryable"]) == ("queue_full", True)
        assert (await tab.chat("first", request_id="r1"))["duplicate"] is True
        conflict = await tab.refused(type="chat", message="other", request_id="r1")
        assert conflict["code"] == "request_id_conflict"


async def test_a_repeat_is_recognised_before_context_too_long(
    tmp_path: Path, model: ScriptedModel
) -> None:
    database = tmp_path / "chat.db"
    async with in_process(settings_for(database, model.url)) as gateway, gateway.tab() as tab:
        await gateway.exchange(tab, model, "x" * 50, "one", request_id="r1")
    narrow = settings_for(database, model.url, max_context_chars=20)
    async with in_process(narrow) as gateway, gateway.tab(tab.session_id) as tab:
        assert (await tab.chat("x" * 50, request_id="r1"))["duplicate"] is True
        error = await tab.refused(type="chat", message="y" * 21)
        assert (error["code"], error["retryable"]) == ("context_too_long", False)
        assert "21" in error["message"]
        assert "20" in error["message"]
    assert len(gateway.rows("SELECT * FROM turns")) == 1


async def test_a_repeated_regenerate_runs_once(gateway: Gateway, model: ScriptedModel) -> None:
    model.autoreply(lambda _: ["ok"])
    async with gateway.tab() as tab:
        await tab.chat("hi")
        await tab.ends(1)
        await tab.send(type="regenerate", request_id="again")
        assert (await tab.next("accepted"))["turn"] == 2
        await tab.ends(2)
        await tab.send(type="regenerate", request_id="again")
        repeat = await tab.next("accepted")
        assert (repeat["turn"], repeat["duplicate"]) == (2, True)
    assert len(gateway.rows("SELECT * FROM turns")) == 2


async def test_of_many_at_once_one_runs(gateway: Gateway, model: ScriptedModel) -> None:
    session_id = await gateway.new_session()
    body = {"session_id": session_id, "message": "hi", "request_id": "r1"}
    replies: list[dict[str, Any]] = []

    async def ask() -> None:
        replies.append((await gateway.http.post("/api/chat", json=body)).json())

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(ask)
        await (await call_of(model)).answer("hello")
    assert len({reply["message_id"] for reply in replies}) == 1
    assert [reply["content"] for reply in replies] == ["hello"] * 8
    assert len(gateway.rows("SELECT * FROM turns")) == 1


@pytest.mark.parametrize(("length", "fits"), [(64, True), (65, False), (0, False)])
async def test_an_id_has_at_most_64_characters(gateway: Gateway, length: int, fits: bool) -> None:
    async with gateway.tab() as tab:
        request_id = "믿" * length
        await tab.send(type="chat", message="hi", request_id=request_id)
        answer = await tab.next("accepted", "error")
    assert answer.get("request_id") == (request_id if fits else None)
    assert fits or "request_id" in answer["message"]
