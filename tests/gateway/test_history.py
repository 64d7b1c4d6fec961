"""The history, over the WebSocket and over REST: the newest page first, never beyond the place."""

import json
from pathlib import Path

import pytest

from gateway.websocket import MAX_HISTORY_BYTES, Connection
from protocol.client_frames import GetHistory
from tests.gateway.harness import Gateway, Json, call_of, in_process, settings_for
from tests.llm.scripted import ScriptedModel


def contents(page: Json) -> list[str]:
    return [message["content"] for message in page["messages"]]


async def test_a_new_session_has_an_empty_history(gateway: Gateway) -> None:
    async with gateway.tab() as tab:
        assert await tab.history() == {
            "type": "history",
            "messages": [],
            "total_count": 0,
            "next_before": None,
        }
    assert await gateway.messages(tab.session_id) == {
        "session_id": tab.session_id,
        "messages": [],
        "total_count": 0,
        "next_before": None,
        "cursor": "0.0.end",
    }


async def test_a_message_tells_all_about_itself(gateway: Gateway, model: ScriptedModel) -> None:
    async with gateway.tab() as tab:
        complete = await gateway.exchange(tab, model, "질문", "답")
        start = tab.frames[1]
        page = await tab.history()
    question, reply = page["messages"]
    assert question == {
        "message_id": start["user_message"]["message_id"],
        "session_id": tab.session_id,
        "role": "user",
        "content": "질문",
        "created_at": start["user_message"]["created_at"],
        "token_usage": None,
        "turn": 1,
        "finish_reason": None,
    }
    assert reply == {
        "message_id": complete["message_id"],
        "session_id": tab.session_id,
        "role": "assistant",
        "content": "답",
        "created_at": complete["created_at"],
        "token_usage": None,
        "turn": 1,
        "finish_reason": "stop",
    }
    assert (await gateway.messages(tab.session_id))["messages"] == page["messages"]


async def test_pages_are_the_newest_first_and_lead_to_the_beginning(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        for number in (1, 2, 3):
            await gateway.exchange(tab, model, f"q{number}", f"a{number}")
        newest = await tab.history(limit=2)
        assert contents(newest) == ["q3", "a3"]
        assert newest["total_count"] == 6
        middle = await tab.history(limit=3, before=newest["next_before"])
        assert contents(middle) == ["a1", "q2", "a2"]
        oldest = await tab.history(limit=3, before=middle["next_before"])
        assert contents(oldest) == ["q1"]
        assert oldest["next_before"] is None
        await tab.say("/history 1")
        assert contents(await tab.next("history")) == ["a3"]


async def test_rest_pages_lead_to_the_beginning_too(gateway: Gateway, model: ScriptedModel) -> None:
    async with gateway.tab() as tab:
        for number in (1, 2, 3):
            await gateway.exchange(tab, model, f"q{number}", f"a{number}")
    newest = await gateway.messages(tab.session_id, limit=4)
    assert contents(newest) == ["q2", "a2", "q3", "a3"]
    assert newest["cursor"] == "3.1.end"
    assert newest["total_count"] == 6
    older = await gateway.messages(tab.session_id, limit=4, before=newest["next_before"])
    assert contents(older) == ["q1", "a1"]
    assert older["cursor"] is None, "a page of the past is no place to go on reading from"
    assert older["next_before"] is None


async def test_history_answers_echo_their_request_id(gateway: Gateway) -> None:
    async with gateway.tab() as tab:
        assert (await tab.history(request_id="h1"))["request_id"] == "h1"


async def test_an_unknown_message_is_not_found(gateway: Gateway, model: ScriptedModel) -> None:
    async with gateway.tab() as tab, gateway.tab() as stranger:
        complete = await gateway.exchange(tab, model, "q", "a")
        for before in ("nobody", complete["message_id"]):
            error = await stranger.refused(type="history", before=before)
            assert error["code"] == "message_not_found"
        path = f"/api/sessions/{stranger.session_id}/messages?before={complete['message_id']}"
        missing = await gateway.http.get(path)
        assert (missing.status_code, missing.json()["code"]) == (404, "message_not_found")


async def test_an_open_turn_shows_its_question_only(gateway: Gateway, model: ScriptedModel) -> None:
    async with gateway.tab() as tab:
        await tab.chat("q1")
        call = await call_of(model)
        await call.say("half of it ")
        await tab.text_until("half of it ")
        page = await tab.history()
        assert contents(page) == ["q1"]
        assert page["total_count"] == 1
        rest = await gateway.messages(tab.session_id)
        assert contents(rest) == ["q1"]
        assert rest["cursor"] == "1.1.0"


async def test_nothing_beyond_the_position_of_the_connection_is_shown(
    gateway: Gateway, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway.tab() as tab:
        await gateway.exchange(tab, model, "q1", "a1")
        await gateway.exchange(tab, model, "q2", "a2")
        await gateway.exchange(tab, model, "q2 again", "a3", replaces=2)
        [connection] = gateway.house.connections
        assert isinstance(connection, Connection)
        reader = connection._reader
        assert reader is not None
        here = reader.cursor
        for place, expected in [
            ("0.0.end", []),
            ("1.1.0", ["q1"]),
            ("1.1.end", ["q1", "a1"]),
            # The turn that hides turn 2 is not there yet, so turn 2 is.
            ("2.1.1", ["q1", "a1", "q2"]),
            ("2.1.end", ["q1", "a1", "q2", "a2"]),
            ("3.1.2", ["q1", "a1", "q2 again"]),
        ]:
            at = type(here).parse(place)
            assert at is not None
            monkeypatch.setattr(reader, "cursor", at)
            frame = await connection._history(GetHistory())
            assert [message.content for message in frame.messages] == expected
            assert frame.total_count == len(expected)
        monkeypatch.setattr(reader, "cursor", here)


async def test_a_page_ends_early_at_512_kib(tmp_path: Path, model: ScriptedModel) -> None:
    settings = settings_for(tmp_path / "chat.db", model.url)
    long = "믿" * 30_000
    async with in_process(settings) as gateway, gateway.tab() as tab:
        for number in range(8):
            await gateway.exchange(tab, model, f"q{number}", long)
        before: str | None = None
        seen: list[Json] = []
        pages = 0
        while pages == 0 or before:
            await tab.send(type="history", before=before)
            raw = await tab.next("history")
            assert len(json.dumps(raw, ensure_ascii=False).encode()) <= 512 * 1024
            seen = raw["messages"] + seen
            before = raw["next_before"]
            pages += 1
        assert pages == 2
        assert [message["turn"] for message in seen] == [n for n in range(1, 9) for _ in "qa"]


async def test_a_page_holds_at_least_one_message(gateway: Gateway, model: ScriptedModel) -> None:
    huge = "가" * (MAX_HISTORY_BYTES // 3 + 1)
    async with gateway.tab() as tab:
        await gateway.exchange(tab, model, "q", huge)
        page = await tab.history()
        assert contents(page) == [huge]
        assert contents(await tab.history(before=page["next_before"])) == ["q"]


@pytest.mark.parametrize("limit", ["0", "-1", "1.5", "abc", "", "1001", str(2**63)])
async def test_a_limit_that_makes_no_sense_is_422(gateway: Gateway, limit: str) -> None:
    session_id = await gateway.new_session()
    refused = await gateway.http.get(f"/api/sessions/{session_id}/messages?limit={limit}")
    assert refused.status_code == 422
    assert refused.json()["code"] == "bad_frame"
    assert "limit" in refused.json()["detail"]


@pytest.mark.parametrize("query", ["include=everything", "include="])
async def test_what_else_to_include_is_spelt_exactly(gateway: Gateway, query: str) -> None:
    session_id = await gateway.new_session()
    refused = await gateway.http.get(f"/api/sessions/{session_id}/messages?{query}")
    assert refused.status_code == 422
    assert "include" in refused.json()["detail"]


async def test_messages_of_an_unknown_session_are_404(gateway: Gateway) -> None:
    for query in ("", "?limit=1", "?before=x"):
        missing = await gateway.http.get(f"/api/sessions/nobody/messages{query}")
        assert (missing.status_code, missing.json()["code"]) == (404, "session_not_found")


async def test_a_page_load_has_no_gap(gateway: Gateway, model: ScriptedModel) -> None:
    async with gateway.tab() as tab:
        await gateway.exchange(tab, model, "q1", "a1")
        await tab.chat("q2")
        call = await call_of(model)
        await call.say("one ")
        await tab.text_until("one ", turn=2)
        page = await gateway.messages(tab.session_id)
        await call.say("two ")
        await tab.text_until("one two ", turn=2)
        async with gateway.tab(tab.session_id, after=page["cursor"]) as loaded:
            assert loaded.ready["resumed"] is True
            await call.say("three")
            await call.complete()
            await loaded.ends(2)
        # The page shows the question; what follows it is the whole reply, and no second start.
        assert loaded.text(2) == "one two three"
        assert loaded.kinds() == ["token", "complete"]
