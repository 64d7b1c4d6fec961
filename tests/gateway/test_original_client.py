"""The calls of the original's web client, in its order and read as it reads them."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.gateway.harness import Gateway, Json, call_of
from tests.llm.scripted import ScriptedModel

# Its GETs carry one too, so that browsers ask before each.
HEADERS = {"Content-Type": "application/json", "Origin": "http://localhost:3000"}
KNOWN = {"start", "token", "complete", "error"}


class OriginalClient:
    """Does what its web page did, no more."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def create_session(self, body: Json) -> str:
        created = await self.http.post("/api/sessions", json=body, headers=HEADERS)
        assert created.is_success
        session_id: str = created.json()["session_id"]
        return session_id

    async def history(self, session_id: str) -> list[Json]:
        answer = await self.http.get(f"/api/sessions/{session_id}/messages", headers=HEADERS)
        assert answer.is_success, "a 404 kills its page"
        messages: list[Json] = answer.json()["messages"]
        return messages

    async def stream(self, session_id: str, message: str) -> AsyncIterator[Json]:
        """Yield events until `complete` or `[DONE]`; it reads no further."""
        body = {
            "session_id": session_id,
            "message": message,
            "max_new_tokens": 256,
            "temperature": 0.7,
            "do_sample": True,
            "use_rag": False,
            "top_k": 5,
        }
        async with self.http.stream(
            "POST", "/api/chat/stream", json=body, headers=HEADERS
        ) as response:
            assert response.is_success
            rest = ""
            async for piece in response.aiter_text():
                *lines, rest = (rest + piece).split("\n")
                for line in lines:
                    if not line.startswith("data: "):
                        continue
                    if line == "data: [DONE]":
                        return
                    event: Json = json.loads(line[6:])
                    if event["type"] in KNOWN:
                        yield event
                    if event["type"] == "complete":
                        return

    async def answer(self, session_id: str, message: str) -> str:
        """The text it shows: `token` events that are not empty, and errors that say so."""
        shown = ""
        async for event in self.stream(session_id, message):
            if event["type"] == "token" and event["content"]:
                shown += event["content"]
            if event["type"] == "error" and "Stream error" in event["message"]:
                shown += "[failed]"
        return shown


@pytest.fixture
def client(served: Gateway) -> OriginalClient:
    return OriginalClient(served.http)


@pytest.mark.parametrize("body", [{}, {"user_agent": "x", "created_from": "web"}])
async def test_a_visit(client: OriginalClient, model: ScriptedModel, body: dict[str, Any]) -> None:
    model.autoreply(lambda _: ["오늘 ", "서울은 ", "맑습니다 ", "😀"])
    health = (await client.http.get("/api/health", headers=HEADERS)).json()
    assert health["status"] == "healthy"
    assert health["llm_server_available"] is True
    assert health["database_connected"] is True
    session_id = await client.create_session(body)
    assert await client.history(session_id) == []
    assert await client.answer(session_id, "서울 날씨 어때?") == "오늘 서울은 맑습니다 😀"
    # It stopped reading at `complete`: what must be stored is stored before.
    shown = [(m["role"], m["content"]) for m in await client.history(session_id)]
    assert shown == [("user", "서울 날씨 어때?"), ("assistant", "오늘 서울은 맑습니다 😀")]


async def test_the_settings_it_sends_arrive_and_the_others_do_no_harm(
    client: OriginalClient, model: ScriptedModel
) -> None:
    session_id = await client.create_session({})
    stream = client.stream(session_id, "hi")
    assert (await anext(stream))["type"] == "start"
    call = await call_of(model)
    sent = {key: call.body[key] for key in ("max_new_tokens", "temperature", "do_sample")}
    assert sent == {"max_new_tokens": 256, "temperature": 0.7, "do_sample": True}
    await call.complete()
    assert [event["type"] async for event in stream] == ["complete"]


async def test_from_the_sixth_question_on_the_model_still_sees_it(
    client: OriginalClient, model: ScriptedModel
) -> None:
    model.autoreply(lambda messages: [f"you asked {messages[-1]['content']}"])
    session_id = await client.create_session({})
    for number in range(8):
        shown = await client.answer(session_id, f"question {number}")
        assert shown == f"you asked question {number}"


async def test_it_shows_that_a_reply_failed(client: OriginalClient, model: ScriptedModel) -> None:
    session_id = await client.create_session({})
    stream = client.stream(session_id, "hi")
    await anext(stream)
    call = await call_of(model)
    await call.say("half ")
    await call.error()
    rest = [event async for event in stream]
    assert [event["type"] for event in rest] == ["token", "error"]
    assert "Stream error" in rest[-1]["message"]


async def test_it_leaves_in_the_middle_and_finds_the_reply_when_it_comes_back(
    client: OriginalClient, served: Gateway, model: ScriptedModel
) -> None:
    session_id = await client.create_session({})
    stream = client.stream(session_id, "hi")
    await anext(stream)
    call = await call_of(model)
    await call.say("one ")
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    await call.say("two")
    await call.complete()
    async with served.tab(session_id, after="1.1.0") as tab:
        await tab.ends()
    assert [m["content"] for m in await client.history(session_id)] == ["hi", "one two"]


async def test_times_carry_their_zone(client: OriginalClient, model: ScriptedModel) -> None:
    # Its page gives them to `new Date()`.
    model.autoreply(lambda _: ["ok"])
    session_id = await client.create_session({})
    await client.answer(session_id, "hi")
    for message in await client.history(session_id):
        assert message["created_at"].endswith("Z")
