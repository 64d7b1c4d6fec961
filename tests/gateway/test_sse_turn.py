"""`POST /api/chat/stream`: one turn as server-sent events, on real sockets, byte by byte."""

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway import sse
from gateway.caller import Caller
from protocol.cursor import Cursor
from protocol.server_frames import Frame
from storage.operations import StorageError
from tests.gateway.harness import WITHIN_S, Gateway, Sse, call_of, on_sockets, settings_for
from tests.llm.scripted import ScriptedModel

STREAM = ("POST", "/api/chat/stream")


def question(session_id: str, **fields: Any) -> dict[str, Any]:
    return {"json": {"session_id": session_id, "message": "hi", **fields}}


async def test_its_head_keeps_every_proxy_from_buffering(
    served: Gateway, model: ScriptedModel
) -> None:
    session_id = await served.new_session()
    async with served.sse(*STREAM, **question(session_id)) as stream:
        headers = stream.response.headers
        assert stream.response.status_code == 200
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        assert headers["cache-control"] == "no-cache, no-transform"
        assert headers["x-accel-buffering"] == "no"
        assert "content-encoding" not in headers


async def test_the_first_bytes_come_at_once(served: Gateway, model: ScriptedModel) -> None:
    session_id = await served.new_session()
    async with served.sse(*STREAM, **question(session_id)) as stream:
        # The model has not said a word.
        start = await stream.next("start")
        assert start["user_message"]["content"] == "hi"
        call = await call_of(model)
        await call.say("one ")
        assert (await stream.next("token"))["content"] == "one "


async def test_events_have_an_id_line_and_one_data_line(
    served: Gateway, model: ScriptedModel
) -> None:
    model.autoreply(lambda _: ["안녕 ", "하세요"])
    session_id = await served.new_session()
    async with served.sse(*STREAM, **question(session_id, request_id="r1")) as stream:
        events = await stream.all()
    assert stream.done
    assert stream.raw.endswith(b"data: [DONE]\n\n")
    assert b"\r" not in stream.raw
    assert b"event:" not in stream.raw
    assert stream.text() == "안녕 하세요"
    assert (events[0]["type"], events[-1]["type"]) == ("start", "complete")
    assert stream.ids == [event["id"] for event in events]
    assert events[0]["request_id"] == "r1"
    # What is stored is stored before `complete` is said.
    assert served.replies() == [("stop", "안녕 하세요")]


async def test_the_same_objects_as_on_the_websocket(served: Gateway, model: ScriptedModel) -> None:
    async with (
        served.tab() as tab,
        served.sse(*STREAM, **question(tab.session_id)) as stream,
    ):
        call = await call_of(model)
        for piece in ("one ", "two"):
            await call.say(piece)
            assert await stream.next("token") == await tab.next("token")
        await call.complete()
        assert await stream.next("complete") == await tab.ends()
        assert stream.events[0] == tab.frames[0]


@pytest.mark.parametrize("text", ["a\u2028b\u2029c\u0085d", "line\nline\r\n\n", 'data: "x"\n\n'])
async def test_separators_in_the_text_do_not_cut_events(
    served: Gateway, model: ScriptedModel, text: str
) -> None:
    session_id = await served.new_session()
    async with served.sse(*STREAM, **question(session_id)) as stream:
        call = await call_of(model)
        await call.say(text)
        await call.complete()
        await stream.all()
    assert stream.text() == text
    assert served.replies() == [("stop", text)]


async def test_it_ends_with_done_after_an_error_which_says_stream_error(
    served: Gateway, model: ScriptedModel
) -> None:
    session_id = await served.new_session()
    async with served.sse(*STREAM, **question(session_id)) as stream:
        call = await call_of(model)
        await call.say("one ")
        await call.error("secret of the model server")
        events = await stream.all()
    error = events[-1]
    assert (error["code"], error["turn"], error["id"]) == ("upstream_error", 1, "1.1.end")
    assert error["message"].startswith("Stream error: ")
    assert "secret" not in stream.raw.decode()
    assert stream.done
    # The prefix is for this stream alone; it is no part of the log.
    async with served.tab(session_id, after="1.1.4") as tab:
        assert not (await tab.ends())["message"].startswith("Stream error")


async def test_a_cancelled_turn_ends_its_stream(served: Gateway, model: ScriptedModel) -> None:
    async with (
        served.tab() as tab,
        served.sse(*STREAM, **question(tab.session_id)) as stream,
    ):
        await stream.next("start")
        await tab.say("/cancel")
        assert (await stream.all())[-1]["finish_reason"] == "cancelled"
        assert stream.done


async def test_a_queued_turn_tells_its_place(served: Gateway, model: ScriptedModel) -> None:
    async with served.tab() as tab:
        await tab.chat("keeps the model busy")
        session_id = await served.new_session()
        async with served.sse(*STREAM, **question(session_id)) as stream:
            queued = await stream.next("queued")
            assert queued["position"] == 1
            assert stream.ids == ["1.1.0", None]


async def test_comments_keep_it_alive(
    served: Gateway, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.05)
    session_id = await served.new_session()
    async with served.sse(*STREAM, **question(session_id)) as stream:
        await stream.next("start")
        for _ in range(2):
            assert (await stream.block()).startswith(b":")
        await (await call_of(model)).complete()
        await stream.next("complete")


async def test_a_client_that_leaves_does_not_stop_its_turn(
    served: Gateway, model: ScriptedModel
) -> None:
    session_id = await served.new_session()
    async with served.sse(*STREAM, **question(session_id)) as stream:
        call = await call_of(model)
        await call.say("one ")
        await stream.next("token")
    await call.say("two")
    await call.complete()
    async with served.tab(session_id, after="1.1.0") as tab:
        assert (await tab.ends())["finish_reason"] == "stop"
    assert served.replies() == [("stop", "one two")]


async def test_a_repeat_streams_the_same_turn_from_its_beginning(
    served: Gateway, model: ScriptedModel
) -> None:
    session_id = await served.new_session()
    body = question(session_id, request_id="r1")
    async with served.sse(*STREAM, **body) as one:
        call = await call_of(model)
        await call.say("one ")
        await one.next("token")
        async with served.sse(*STREAM, **body) as two:
            await two.next("token")
            await call.say("two")
            await call.complete()
            await two.all()
        await one.all()
    async with served.sse(*STREAM, **body) as late:
        await late.all()
    assert [stream.text() for stream in (one, two, late)] == ["one two"] * 3
    assert one.events[-1] == two.events[-1] == late.events[-1]
    assert len(served.rows("SELECT * FROM turns")) == 1


async def test_its_turn_alone_is_told(served: Gateway, model: ScriptedModel) -> None:
    model.autoreply(lambda messages: [messages[-1]["content"].upper()])
    session_id = await served.new_session()
    for number in (1, 2):
        body = question(session_id, message=f"q{number}")
        async with served.sse(*STREAM, **body) as stream:
            await stream.all()
    assert {event["turn"] for event in stream.events} == {2}
    assert stream.text() == "Q2"


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"message": ""}, 422, "bad_frame"),
        ({"session_id": "nobody"}, 404, "session_not_found"),
        ({"replaces": 4}, 404, "turn_not_found"),
    ],
)
async def test_what_is_refused_before_start_is_a_problem_and_no_stream(
    served: Gateway, fields: dict[str, Any], status: int, code: str
) -> None:
    session_id = await served.new_session()
    body = {"session_id": session_id, "message": "hi", **fields}
    answer = await served.http.post(STREAM[1], json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"


# What it cannot finish


def unfinished(stream: Sse) -> dict[str, Any]:
    """The `error` of a stream that could not tell its turn to the end."""
    assert stream.done
    error = stream.events[-1]
    assert error["type"] == "error"
    assert error["message"].startswith("Stream error: ")
    assert error["retryable"] is True
    assert not {"id", "turn"} & set(error)
    assert stream.ids[-1] is None
    return error


async def test_a_shutdown_ends_it_with_an_error_that_has_no_id(
    served: Gateway, model: ScriptedModel
) -> None:
    session_id = await served.new_session()
    async with served.sse(*STREAM, **question(session_id)) as stream:
        call = await call_of(model)
        await call.say("one ")
        await stream.next("token")
        await served.house.turns.drain(within_s=0)
        await stream.all()
        assert unfinished(stream)["code"] == "shutting_down"


async def test_trouble_of_storage_ends_it_with_an_error_that_has_no_id(
    served: Gateway, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = served.house.database
    write, healed = type(database).write, anyio.Event()

    async def broken(self: Any, operation: Any) -> Any:
        if operation.__name__ == "end" and not healed.is_set():
            operation.close()
            raise StorageError("disk I/O error")
        return await write(self, operation)

    session_id = await served.new_session()
    async with served.sse(*STREAM, **question(session_id)) as stream:
        monkeypatch.setattr(type(database), "write", broken)
        await (await call_of(model)).complete()
        await stream.all()
        assert unfinished(stream)["code"] == "storage_error"
    healed.set()
    async with served.tab(session_id, after="1.1.0") as tab:
        with anyio.fail_after(WITHIN_S):
            assert (await tab.ends())["finish_reason"] == "stop"


async def test_another_attempt_ends_it_with_an_error_that_has_no_id(
    served: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only another node can begin another attempt while this one tells the first.
    async def followed(*_: object, **__: object) -> Any:
        for attempt in (1, 2):
            at = Cursor(1, attempt, 0)
            yield Frame("start", at, json.dumps({"type": "start", "id": str(at), "turn": 1}))

    monkeypatch.setattr(sse, "follow", followed)
    caller = Caller(await served.house.entrance.authenticator.identify(None))
    events = sse.turn_events(served.house, caller, caller.claim("any"), 1)
    told = [data async for data in events]
    assert [json.loads(told[1].removeprefix(b"data: "))[key] for key in ("type", "code")] == [
        "error",
        "interrupted",
    ]
    assert b"id:" not in told[1]
    assert told[2] == b"data: [DONE]\n\n"
    assert len(told) == 3


async def test_many_streams_at_once_end_each_with_its_own_text(
    tmp_path: Path, model: ScriptedModel
) -> None:
    model.autoreply(lambda messages: [messages[-1]["content"], " indeed"])
    settings = settings_for(tmp_path / "chat.db", model.url, llm_max_concurrency=8)
    texts: dict[int, str] = {}
    async with on_sockets(settings) as gateway:

        async def one(number: int) -> None:
            session_id = await gateway.new_session()
            body = question(session_id, message=f"q{number}")
            async with gateway.sse(*STREAM, **body) as stream:
                await stream.all()
                texts[number] = stream.text()

        async with anyio.create_task_group() as tasks:
            for number in range(24):
                tasks.start_soon(one, number)
    assert texts == {number: f"q{number} indeed" for number in range(24)}
