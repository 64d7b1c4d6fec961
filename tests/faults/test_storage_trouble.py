"""While the database is in trouble nothing is promised; when it is well again all goes on."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from httpx_ws import AsyncWebSocketSession, WebSocketDisconnect, aconnect_ws

from storage.database import open_database
from storage.migrations import migrate
from tests.faults.troubles import corrupt, disk, fill, full_disk, healthy, locked, read_only
from tests.gateway.harness import Gateway, Json, call_of, on_sockets, settings_for
from tests.llm.scripted import ScriptedModel
from tests.whole.processes import MODULE, running

Trouble = Callable[[Gateway], AbstractAsyncContextManager[None]]
PASSING = (full_disk, locked, read_only)


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as model:
        yield model


@pytest.fixture
async def served(tmp_path: Path, model: ScriptedModel) -> AsyncIterator[Gateway]:
    """A gateway on a small disk of its own."""
    with disk(tmp_path / "disk") as directory:
        async with on_sockets(settings_for(directory / "chat.db", model.url)) as gateway:
            yield gateway


def is_storage_error(error: Json) -> bool:
    """Whether it says that storage failed, and neither where nor of which turn."""
    told = (error["code"], error["retryable"])
    return told == ("storage_error", True) and not {"id", "turn", "message_id"} & set(error)


def is_problem(answer: Any) -> bool:
    """Whether a call over REST was answered likewise."""
    kind = answer.headers["content-type"]
    problem: Json = answer.json()
    told = (answer.status_code, kind, problem["code"], problem["retryable"])
    hidden = not any(word in answer.text for word in ("disk", "locked", "malformed", "readonly"))
    return told == (503, "application/problem+json", "storage_error", True) and hidden


@pytest.mark.parametrize("trouble", PASSING)
async def test_what_cannot_be_stored_is_refused_on_every_transport_and_never_promised(
    trouble: Trouble, served: Gateway, model: ScriptedModel
) -> None:
    async with served.tab() as tab, served.tab(tab.session_id) as other:
        await served.exchange(tab, model, "before", "stored")
        body = {"session_id": tab.session_id, "message": "hi", "request_id": "r1"}
        rows = served.rows("SELECT * FROM messages"), served.rows("SELECT * FROM turns")
        seen = len(await other.settle())
        async with trouble(served):
            error = await tab.refused(type="chat", message="hi", request_id="r1")
            assert is_storage_error(error)
            assert error["request_id"] == "r1"
            for path in ("/api/chat", "/api/chat/stream"):
                assert is_problem(await served.http.post(path, json=body))
            assert is_problem(await served.http.post("/api/sessions", json={}))
            assert is_problem(await served.http.delete(f"/api/sessions/{tab.session_id}"))
            await healthy(served, False)
        # Nothing half stored, nothing said to anybody, no place at the model taken.
        assert (served.rows("SELECT * FROM messages"), served.rows("SELECT * FROM turns")) == rows
        said = {frame["type"] for frame in (await other.settle())[seen:]}
        assert not said & {"accepted", "start", "token", "complete"}
        assert served.house.admission.calls == 0
        # Retryable, without a turn: the same again.
        await served.exchange(tab, model, "hi", "hello", request_id="r1")
        assert tab.text(2) == "hello"
    assert served.replies() == [("stop", "stored"), ("stop", "hello")]


@pytest.mark.parametrize("trouble", PASSING)
async def test_a_running_turn_goes_on_and_ends_when_the_database_is_well_again(
    trouble: Trouble, served: Gateway, model: ScriptedModel
) -> None:
    async with served.tab() as tab:
        path = f"/api/sessions/{tab.session_id}/events"
        async with served.sse("GET", path) as events:
            await events.next("ready")
            await tab.chat("hi")
            call = await call_of(model)
            await call.say("one ")
            await tab.text_until("one ")
            async with trouble(served):
                await call.say("two")
                # What comes from memory comes on.
                await tab.text_until("one two")
                await call.complete()
                for error in (await tab.next("error"), await events.next("error")):
                    assert is_storage_error(error)
                assert "complete" not in tab.kinds()
                busy = await tab.refused(type="chat", message="more")
                assert busy["code"] in ("turn_in_progress", "storage_error")
                await healthy(served, False)
            complete = await tab.ends()
            assert (complete["id"], complete["finish_reason"]) == ("1.1.end", "stop")
            assert (await events.next("complete"))["id"] == "1.1.end"
        if trouble is full_disk:  # it takes a while to be sure, and the others are no different
            await healthy(served, True)
        assert tab.text() == events.text() == "one two"
        await served.exchange(tab, model, "more", "three")
    assert served.replies() == [("stop", "one two"), ("stop", "three")]


async def test_a_stream_of_a_turn_that_cannot_be_ended_says_so_and_a_repeat_finds_it(
    served: Gateway, model: ScriptedModel
) -> None:
    body = {"session_id": await served.new_session(), "message": "hi", "request_id": "r1"}
    async with served.sse("POST", "/api/chat/stream", json=body) as stream:
        await stream.next("start")
        call = await call_of(model)
        await call.say("hello")
        await stream.next("token")
        async with full_disk(served):
            await call.complete()
            error = (await stream.all())[-1]
            assert is_storage_error(error)
            assert error["message"].startswith("Stream error: ")
            assert stream.done
            assert is_problem(
                await served.http.post("/api/chat", json={**body, "request_id": "r2"})
            )
        async with served.sse("POST", "/api/chat/stream", json=body) as again:
            while (await again.receive()) is not None:
                pass
    assert served.replies() in ([("stop", "hello")], [])


@pytest.mark.parametrize("what", ["session", "messages", "events"])
async def test_what_cannot_be_read_is_a_problem_and_not_an_empty_answer(
    what: str, served: Gateway, model: ScriptedModel
) -> None:
    async with served.tab() as tab:
        await served.exchange(tab, model, "hi", "hello")
        path = f"/api/sessions/{tab.session_id}" + ("" if what == "session" else f"/{what}")
        async with corrupt(served):
            assert is_problem(await served.http.get(path))
            assert is_problem(await served.http.post("/api/sessions", json={}))
            await healthy(served, False)


async def test_who_joins_while_nothing_can_be_read_is_told_and_asked_to_come_back(
    served: Gateway, model: ScriptedModel
) -> None:
    async with served.tab() as tab:
        await served.exchange(tab, model, "hi", "hello")
        query = {"session_id": tab.session_id, "after": "0.0.end"}
        async with corrupt(served):
            url = httpx.URL("/ws", params=query)
            socket: AsyncWebSocketSession
            async with aconnect_ws(str(url), served.http) as socket:
                assert is_storage_error(json.loads(await socket.receive_text()))
                with pytest.raises(WebSocketDisconnect) as closed:
                    await socket.receive_text()
                assert closed.value.code == 1013


@pytest.mark.parametrize("trouble", [full_disk, corrupt])
async def test_the_gateway_stops_even_while_a_turn_cannot_be_ended_and_takes_it_up_again(
    trouble: Trouble, tmp_path: Path, model: ScriptedModel
) -> None:
    with disk(tmp_path / "disk") as directory:
        settings = settings_for(directory / "chat.db", model.url)
        async with on_sockets(settings) as served, served.tab() as tab:
            await tab.chat("hi")
            call = await call_of(model)
            await call.say("one two")
            await tab.text_until("one two")
            async with trouble(served):
                await call.complete()
                assert is_storage_error(await tab.next("error"))
                with anyio.fail_after(8.0):
                    await served.house.turns.drain(within_s=0)
        async with on_sockets(settings) as served, served.tab(tab.session_id, after="1.1.7") as tab:
            call = await call_of(model)
            await call.say("again")
            await call.complete()
            assert (await tab.ends())["id"] == "1.2.end"
        assert served.replies() == [("stop", "again")]


# At the start


async def refused(directory: Path, **settings: str) -> str:
    """Start a gateway that must not start; return its one line."""
    defaults = {"PORT": "0", "DATABASE_URL": "chat.db"}
    async with running(*MODULE, directory=directory, **(defaults | settings)) as program:
        assert await program.ended() == 1
    [line] = program.err
    assert program.out == []
    return line


async def stored(directory: Path) -> Path:
    """A database of a few pages, closed in good order."""
    path = directory / "chat.db"
    async with open_database(path) as database:
        await migrate(database)
    return path


@pytest.mark.parametrize("keep", [16, 100, 4_096])
async def test_a_broken_file_is_one_line_and_is_left_as_it_is(keep: int, tmp_path: Path) -> None:
    path = await stored(tmp_path)
    broken = path.read_bytes()[:keep] + b"\xaa" * 20_000
    path.write_bytes(broken)
    line = await refused(tmp_path)
    assert line.startswith("midm-gateway: ")
    assert any(why in line for why in ("malformed", "not a database")), line
    assert path.read_bytes() == broken


async def test_a_disk_that_is_read_only_is_one_line(tmp_path: Path) -> None:
    with disk(tmp_path / "disk", options="ro,size=1m") as directory:
        line = await refused(tmp_path, DATABASE_URL=str(directory / "chat.db"))
    assert line.endswith("Read-only file system")


async def test_a_disk_that_is_full_is_one_line(tmp_path: Path) -> None:
    with disk(tmp_path / "disk") as directory:
        fill(directory)
        line = await refused(tmp_path, DATABASE_URL=str(directory / "chat.db"))
    assert line.startswith("midm-gateway: ")
    assert "full" in line or "disk I/O error" in line
