"""`POST /api/chat`: the whole reply in one answer, seen by everybody else as a turn."""

import json
from typing import Any

import anyio
import pytest

from tests.gateway.harness import Gateway, call_of
from tests.llm.scripted import ScriptedModel


async def test_the_reply_says_all_about_itself(gateway: Gateway, model: ScriptedModel) -> None:
    session_id = await gateway.new_session()
    model.autoreply(lambda _: ["안녕하세요! ", "믿음입니다."])
    answer = await gateway.http.post(
        "/api/chat", json={"session_id": session_id, "message": "안녕"}
    )
    reply = answer.json()
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    [_, stored] = (await gateway.messages(session_id))["messages"]
    assert reply == {
        "message_id": stored["message_id"],
        "role": "assistant",
        "content": "안녕하세요! 믿음입니다.",
        "created_at": stored["created_at"],
        "token_usage": {"prompt_tokens": 74, "completion_tokens": 6, "total_tokens": 80},
        "turn": 1,
        "finish_reason": "stop",
    }
    assert stored["token_usage"] == reply["token_usage"]


async def test_it_is_one_call_of_chat_seen_by_a_tab_as_start_text_complete(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab, anyio.create_task_group() as tasks:
        body = {"session_id": tab.session_id, "message": "hi", "request_id": "r1"}
        tasks.start_soon(_post, gateway, "/api/chat", body)
        start = await tab.next("start")
        assert start["user_message"]["content"] == "hi"
        assert start["request_id"] == "r1"
        call = await call_of(model)
        assert call.path == "/chat"
        await call.answer("all of it")
        complete = await tab.ends()
        assert [f["type"] for f in tab.frames] == ["start", "token", "complete"]
        assert tab.text() == "all of it"
        assert complete["token_usage"]["total_tokens"] == 80


async def test_a_streamed_turn_calls_the_stream(gateway: Gateway, model: ScriptedModel) -> None:
    async with gateway.tab() as tab:
        await tab.chat("hi")
        assert (await call_of(model)).path == "/chat/stream"


async def test_an_edit_works_over_rest_too(gateway: Gateway, model: ScriptedModel) -> None:
    model.autoreply(lambda _: ["ok"])
    session_id = await gateway.new_session()
    body = {"session_id": session_id, "message": "hi"}
    await _post(gateway, "/api/chat", body)
    edited = await _post(gateway, "/api/chat", body | {"message": "ho", "replaces": 1})
    assert edited.json()["turn"] == 2
    contents = [m["content"] for m in (await gateway.messages(session_id))["messages"]]
    assert contents == ["ho", "ok"]
    missing = await _post(gateway, "/api/chat", body | {"replaces": 1})
    assert (missing.status_code, missing.json()["code"]) == (404, "turn_not_found")


async def test_an_empty_reply_is_a_reply(gateway: Gateway, model: ScriptedModel) -> None:
    model.autoreply(lambda _: [""])
    session_id = await gateway.new_session()
    answer = await _post(gateway, "/api/chat", {"session_id": session_id, "message": "hi"})
    assert (answer.status_code, answer.json()["content"]) == (200, "")
    assert gateway.replies() == [("stop", "")]


@pytest.mark.parametrize("path", ["/api/chat", "/api/chat/stream"])
@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({}, "bad_frame", "message"),
        ({"message": None}, "bad_frame", "message"),
        ({"message": ""}, "bad_frame", "message"),
        ({"message": "\u3000\n"}, "bad_frame", "message"),
        ({"message": ["hi"]}, "bad_frame", "message"),
        ({"message": "x" * 32_001}, "message_too_long", "message"),
        ({"message": "hi", "max_new_tokens": 0}, "bad_frame", "max_new_tokens"),
        ({"message": "hi", "temperature": "warm"}, "bad_frame", "temperature"),
        ({"message": "hi", "temperature": 2.1}, "bad_frame", "temperature"),
        ({"message": "hi", "request_id": "x" * 65}, "bad_frame", "request_id"),
        ({"message": "hi", "session_id": 7}, "bad_frame", "session_id"),
    ],
)
async def test_a_body_that_does_not_validate_names_the_field(
    gateway: Gateway, path: str, fields: dict[str, Any], code: str, field: str
) -> None:
    session_id = await gateway.new_session()
    refused = await _post(gateway, path, {"session_id": session_id, **fields})
    assert (refused.status_code, refused.json()["code"]) == (422, code)
    assert field in refused.json()["detail"]
    assert gateway.rows("SELECT * FROM turns") == []


@pytest.mark.parametrize("path", ["/api/chat", "/api/chat/stream"])
async def test_fields_that_are_not_known_are_ignored(
    gateway: Gateway, model: ScriptedModel, path: str
) -> None:
    model.autoreply(lambda _: ["ok"])
    session_id = await gateway.new_session()
    extra = {"use_rag": True, "top_k": 5, "context": {"a": 1}, "foo": None, "turn": "x"}
    answer = await _post(gateway, path, {"session_id": session_id, "message": "hi", **extra})
    assert answer.status_code == 200


async def test_a_lone_surrogate_does_no_harm(gateway: Gateway, model: ScriptedModel) -> None:
    session_id = await gateway.new_session()
    model.autoreply(lambda messages: [messages[-1]["content"]])
    body = json.dumps({"session_id": session_id, "message": "a\ud800b"})
    answer = await gateway.http.post("/api/chat", content=body)
    assert answer.json()["content"] == "a\ufffdb"


async def _post(gateway: Gateway, path: str, body: dict[str, Any]) -> Any:
    return await gateway.http.post(path, json=body)
