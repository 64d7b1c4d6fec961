"""What a client may say on its WebSocket, typed or as JSON, and what it is told of its mistakes."""

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.turns import Turns
from tests.gateway.harness import (
    WITHIN_S,
    Gateway,
    Tab,
    call_of,
    in_process,
    settings_for,
)
from tests.llm.scripted import ScriptedModel


@pytest.mark.parametrize(
    ("typed", "asked"),
    [
        ("안녕하세요", "안녕하세요"),
        ("//etc/hosts?", "/etc/hosts?"),
        ("[1, 2]", "[1, 2]"),
        ('"quoted"', '"quoted"'),
        (" {not json}", " {not json}"),
    ],
)
async def test_a_line_that_is_typed_is_a_message(
    gateway: Gateway, model: ScriptedModel, typed: str, asked: str
) -> None:
    async with gateway.tab() as tab:
        await tab.say(typed)
        assert (await tab.next("start"))["user_message"]["content"] == asked
        assert (await call_of(model)).messages[-1]["content"] == asked


async def test_a_chat_frame_carries_its_settings_to_the_model(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await tab.chat("hi", max_new_tokens=7, temperature=1.5, do_sample=True)
        call = await call_of(model)
    assert (call.body["max_new_tokens"], call.body["temperature"]) == (7, 1.5)
    assert call.body["do_sample"] is True


async def test_accepted_precedes_start_and_goes_to_the_sender_alone(
    gateway: Gateway, model: ScriptedModel
) -> None:
    model.autoreply(lambda _: ["hello ", "there"])
    async with gateway.tab() as tab, gateway.tab(tab.session_id) as other:
        await tab.send(type="chat", message="hi", request_id="r1")
        await tab.ends()
        await other.ends()
        assert tab.kinds() == ["accepted", "start", "token", "complete"]
        assert other.kinds() == ["start", "token", "complete"]
        accepted, start = tab.frames[:2]
        assert accepted == {
            "type": "accepted",
            "turn": 1,
            "request_id": "r1",
            "duplicate": False,
            "status": "running",
        }
        assert "id" not in accepted
        assert start["request_id"] == "r1"


async def test_accepted_precedes_start_even_when_the_log_is_read_slowly(
    gateway: Gateway, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.autoreply(lambda _: ["quick"])
    database = gateway.house.database
    read, reading, over = type(database).read, anyio.Event(), anyio.Event()

    async def slow_read(self: Any, operation: Any) -> Any:
        # The connection's first look at the log meets a turn that was asked and answered while
        # the look was under way.
        if operation.__name__.endswith("read_after") and not reading.is_set():
            reading.set()
            await over.wait()
        return await read(self, operation)

    async with gateway.tab() as other:
        await other.chat("before")
        await other.ends()
        monkeypatch.setattr(type(database), "read", slow_read)
        # Behind the end, so that there is something to look for.
        async with gateway.tab(other.session_id, after="0.0.end") as tab:
            with anyio.fail_after(WITHIN_S):
                await reading.wait()
            await tab.send(type="chat", message="hi")
            await other.ends(2)
            over.set()
            await tab.ends(2)
    told = ["start", "token", "complete"]
    assert tab.kinds() == ["accepted", *told, *told]


async def test_who_joins_while_a_turn_is_asked_and_answered_is_told_it(
    gateway: Gateway, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.autoreply(lambda _: ["quick"])
    database = gateway.house.database
    read = type(database).read
    async with gateway.tab() as other:

        async def overtaken_read(self: Any, operation: Any) -> Any:
            found = await read(self, operation)
            if operation.__name__ == "join":
                await other.chat("hi")
                await other.ends()
            return found

        monkeypatch.setattr(type(database), "read", overtaken_read)
        async with gateway.tab(other.session_id) as tab:
            assert tab.ready["cursor"] == "0.0.end"
            await tab.ends()
    assert tab.kinds() == ["start", "token", "complete"]


async def test_who_joins_at_the_end_of_the_log_does_not_look_for_more(
    gateway: Gateway, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = gateway.house.database
    read = type(database).read
    reads: list[str] = []

    async def noted_read(self: Any, operation: Any) -> Any:
        reads.append(operation.__name__)
        return await read(self, operation)

    monkeypatch.setattr(type(database), "read", noted_read)
    async with gateway.tab() as tab:
        await tab.settle()
        assert reads == []
        async with gateway.tab(tab.session_id) as other:
            await other.settle()
            assert reads == ["join"]


async def test_events_say_what_the_contract_says(gateway: Gateway, model: ScriptedModel) -> None:
    async with gateway.tab() as tab:
        complete = await gateway.exchange(tab, model, "질문", "답 하나")
        _, start, token, _ = tab.frames
    assert start == {
        "type": "start",
        "id": "1.1.0",
        "turn": 1,
        "attempt": 1,
        "message_id": complete["message_id"],
        "user_message": start["user_message"],
    }
    assert set(start["user_message"]) == {"message_id", "content", "created_at"}
    assert start["user_message"]["created_at"].endswith("Z")
    assert token == {
        "type": "token",
        "id": "1.1.4",
        "turn": 1,
        "content": "답 하나",
        "token_count": 1,
    }
    assert complete["id"] == "1.1.end"
    assert complete["turn"] == 1
    assert complete["total_tokens"] == 1
    assert complete["token_usage"] is None
    assert complete["created_at"].endswith("Z")
    assert set(complete["timing"]) == {"queue_ms", "first_token_ms", "duration_ms"}
    assert set(complete) == {
        *("type", "id", "turn", "message_id", "finish_reason", "total_tokens", "token_usage"),
        *("created_at", "timing"),
    }


@pytest.mark.parametrize(
    ("frame", "answer"),
    [
        ('{"type": "ping"}', {"type": "pong"}),
        ('{"type": "ping", "request_id": "p 1"}', {"type": "pong", "request_id": "p 1"}),
        ("/ping", {"type": "pong"}),
        ("/ping p2", {"type": "pong", "request_id": "p2"}),
    ],
)
async def test_a_ping_is_answered_by_a_pong(
    gateway: Gateway, frame: str, answer: dict[str, str]
) -> None:
    async with gateway.tab() as tab:
        await tab.say(frame)
        assert await tab.receive() == answer


async def test_help_tells_what_can_be_typed(gateway: Gateway) -> None:
    async with gateway.tab() as tab:
        await tab.say("/help")
        text = (await tab.next("help"))["text"]
    for shorthand in ("/cancel", "/regenerate", "/history 20", "/ping", "//"):
        assert shorthand in text


async def test_after_silence_the_server_pings(tmp_path: Path, model: ScriptedModel) -> None:
    settings = settings_for(tmp_path / "chat.db", model.url, heartbeat_s=0.05)
    async with in_process(settings) as gateway, gateway.tab() as tab:
        assert tab.ready["heartbeat_s"] == 0.05
        assert await tab.receive() == {"type": "ping"}
        assert await tab.receive() == {"type": "ping"}
        # Nobody has to answer, and a client may as well.
        await tab.send(type="pong")
        assert (await tab.next("error"))["code"] == "unknown_type"


@pytest.mark.parametrize(
    ("frame", "code", "field"),
    [
        ('{"type": "chat"}', "bad_frame", "message"),
        ('{"type": "chat", "message": 5}', "bad_frame", "message"),
        ('{"type": "chat", "message": " \\n "}', "bad_frame", "message"),
        (json.dumps({"type": "chat", "message": "x" * 32_001}), "message_too_long", "message"),
        ('{"type": "chat", "message": "x", "max_new_tokens": 0}', "bad_frame", "max_new_tokens"),
        ('{"type": "chat", "message": "x", "temperature": -1}', "bad_frame", "temperature"),
        ('{"type": "chat", "message": "x", "do_sample": "maybe"}', "bad_frame", "do_sample"),
        ('{"type": "chat", "message": "x", "replaces": 0}', "bad_frame", "replaces"),
        ('{"type": "regenerate", "turn": "last"}', "bad_frame", "turn"),
        ('{"type": "cancel", "turn": -1}', "bad_frame", "turn"),
        ('{"type": "history", "limit": 0}', "bad_frame", "limit"),
        ("/history many", "bad_frame", "limit"),
        ('{"type": "dance"}', "unknown_type", "type"),
        ('{"message": "no type"}', "unknown_type", "type"),
        ("/dance", "unknown_type", "/dance"),
        ("{oops", "bad_json", "JSON"),
        ('{"type": "chat", "message": NaN}', "bad_json", "JSON"),
    ],
)
async def test_an_error_names_the_field_and_the_socket_goes_on(
    gateway: Gateway, frame: str, code: str, field: str
) -> None:
    async with gateway.tab() as tab:
        await tab.say(frame)
        error = await tab.next("error")
        assert (error["code"], error["retryable"]) == (code, False)
        assert field in error["message"]
        assert "turn" not in error
        assert "id" not in error
        await tab.settle()
    assert gateway.rows("SELECT * FROM turns") == []


async def test_an_error_says_what_was_given_and_what_is_allowed(gateway: Gateway) -> None:
    async with gateway.tab() as tab:
        error = await tab.refused(type="chat", message="x", temperature=9)
    assert "9" in error["message"]
    assert "less than or equal to 2" in error["message"]


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "chat", "message": ""},
        {"type": "regenerate"},
        {"type": "cancel"},
        {"type": "history", "before": "nobody"},
        {"type": "dance"},
    ],
)
async def test_an_error_echoes_the_request_id(gateway: Gateway, frame: dict[str, Any]) -> None:
    async with gateway.tab() as tab:
        error = await tab.refused(**frame, request_id="r-7")
    assert error["request_id"] == "r-7"


async def test_other_turns_go_on_after_an_error(gateway: Gateway, model: ScriptedModel) -> None:
    async with gateway.tab() as tab:
        await tab.chat("hi")
        call = await call_of(model)
        await call.say("one ")
        await tab.text_until("one ")
        await tab.refused(type="dance")
        await call.say("two")
        await call.complete()
        assert (await tab.ends())["finish_reason"] == "stop"
    assert tab.text() == "one two"


async def test_an_auth_frame_is_taken_and_its_token_never_repeated(gateway: Gateway) -> None:
    async with gateway.tab() as tab:
        await tab.send(type="auth", token="secret-token")
        error = await tab.refused(type="auth", token=["secret-token"])
        assert "secret-token" not in json.dumps(await tab.settle())
        assert "token" in error["message"]


async def test_a_mistake_of_ours_is_internal_and_hides_its_text(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("http://10.0.0.7:8000/chat is an inner address")

    async with gateway.tab() as tab:
        monkeypatch.setattr(Turns, "accept", broken)
        error = await tab.refused(type="chat", message="hi", request_id="r1")
        assert (error["code"], error["request_id"]) == ("internal", "r1")
        assert "10.0.0.7" not in json.dumps(error)
        await tab.settle()


def test_tab_shows_what_a_client_shows() -> None:
    """The folding rule of the contract, which every test that compares texts relies on."""
    tab = Tab.__new__(Tab)
    tab.frames = [
        {"type": "start", "turn": 1},
        {"type": "token", "turn": 1, "content": "void"},
        {"type": "start", "turn": 1},
        {"type": "token", "turn": 1, "content": "kept"},
    ]
    assert tab.text() == "kept"
