"""A process that ends, and the next one on the same file: open turns are taken up again."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.settings import Settings
from gateway.turns import TAKE_UP_AT_ONCE
from storage import turns
from tests.gateway.harness import Gateway, Json, call_of, in_process, new_turn, settings_for
from tests.llm.scripted import ScriptedModel

MANY = TAKE_UP_AT_ONCE + 1


async def interrupted_turn(settings: Settings, model: ScriptedModel, text: str) -> Json:
    """Ask, let the model say a part of its reply, and end the process; return the `start`."""
    async with in_process(settings) as gateway, gateway.tab() as tab:
        await tab.chat("질문", request_id="r1", max_new_tokens=77)
        start = await tab.next("start")
        call = await call_of(model)
        if text:
            await call.say(text)
            await tab.text_until(text)
    return start | {"session_id": tab.session_id, "last": tab.cursor}


def set_in_turns(database: Path, **values: Any) -> None:
    with closing(sqlite3.connect(database)) as connection:
        for column, value in values.items():
            connection.execute(f"UPDATE turns SET {column} = ?", (value,))
        connection.commit()


@pytest.fixture
def settings(tmp_path: Path, model: ScriptedModel) -> Settings:
    return settings_for(tmp_path / "chat.db", model.url)


async def test_an_open_turn_is_run_again_as_its_second_attempt(
    settings: Settings, model: ScriptedModel
) -> None:
    before = await interrupted_turn(settings, model, "one ")
    async with (
        in_process(settings) as gateway,
        gateway.tab(before["session_id"], after=before["last"]) as tab,
    ):
        # A cursor of an older attempt: what was seen is void, `start` of the latest comes next.
        assert tab.ready["resumed"] is True
        call = await call_of(model)
        assert call.messages[-1]["content"] == "질문"
        assert call.body["max_new_tokens"] == 77, "with the settings it was asked with"
        await call.say("new ", "reply")
        await call.complete()
        complete = await tab.ends()
        [start] = [f for f in tab.frames if f["type"] == "start"]
        assert start == {
            **{key: before[key] for key in ("type", "turn", "message_id", "user_message")},
            "id": "1.2.0",
            "attempt": 2,
            "request_id": "r1",
        }
        assert complete["id"] == "1.2.end"
        assert tab.text() == "new reply"
    assert gateway.replies() == [("stop", "new reply")]


async def test_a_repeat_finds_the_turn_after_a_restart(
    settings: Settings, model: ScriptedModel
) -> None:
    before = await interrupted_turn(settings, model, "")
    async with in_process(settings) as gateway, gateway.tab(before["session_id"]) as tab:
        again = await tab.chat("질문", request_id="r1", max_new_tokens=77)
        assert (again["turn"], again["duplicate"]) == (1, True)
        await (await call_of(model)).complete()
        await tab.ends()
    assert len(gateway.rows("SELECT * FROM turns")) == 1


async def test_the_text_so_far_is_kept_while_nobody_runs_the_turn(
    settings: Settings, model: ScriptedModel
) -> None:
    await interrupted_turn(settings, model, "one two ")
    with closing(sqlite3.connect(settings.database_path)) as connection:
        row = connection.execute("SELECT status, checkpoint, attempt FROM turns").fetchone()
        replies = connection.execute("SELECT * FROM messages WHERE role = 'assistant'").fetchall()
    assert row == ("running", "one two ", 1)
    assert replies == []


@pytest.mark.parametrize("why", ["too old", "too many attempts"])
async def test_a_turn_that_is_not_run_again_ends_interrupted_with_the_text_that_was_kept(
    settings: Settings, model: ScriptedModel, why: str
) -> None:
    before = await interrupted_turn(settings, model, "one two ")
    if why == "too old":
        set_in_turns(settings.database_path, created_at="2020-01-01T00:00:00.000000Z")
        attempt = 2
    else:
        set_in_turns(settings.database_path, attempt=3)
        attempt = 4
    async with (
        in_process(settings) as gateway,
        gateway.tab(before["session_id"], after=before["last"]) as tab,
    ):
        error = await tab.ends()
        assert (error["code"], error["retryable"]) == ("interrupted", True)
        assert error["id"] == f"1.{attempt}.end"
        assert error["message_id"] == before["message_id"]
        assert tab.kinds() == ["start", "token", "error"]
        assert tab.frames[0]["attempt"] == attempt
        assert tab.frames[0]["message_id"] == before["message_id"]
        assert tab.text() == "one two "
        [_, reply] = (await tab.history())["messages"]
        assert reply["finish_reason"] == "interrupted"
        # With a turn: ask again, as something new.
        await tab.say("/regenerate")
        await (await call_of(model)).complete()
        assert (await tab.ends(2))["finish_reason"] == "stop"
    assert gateway.replies()[0] == ("interrupted", "one two ")


async def test_the_third_attempt_is_the_last(settings: Settings, model: ScriptedModel) -> None:
    before = await interrupted_turn(settings, model, "one ")
    for attempt in (2, 3):
        async with in_process(settings) as gateway, gateway.tab(before["session_id"]) as tab:
            call = await call_of(model)
            await call.say(f"{attempt} ")
            await tab.text_until(f"{attempt} ")
            assert tab.frames[0]["attempt"] == attempt
    async with (
        in_process(settings) as gateway,
        gateway.tab(before["session_id"], after="0.0.end") as tab,
    ):
        assert (await tab.ends())["code"] == "interrupted"
        assert tab.text() == "3 "
    assert gateway.replies() == [("interrupted", "3 ")]


async def test_settings_say_how_often_and_for_how_long_a_turn_is_run_again(
    tmp_path: Path, model: ScriptedModel
) -> None:
    once = settings_for(tmp_path / "chat.db", model.url, max_attempts=1)
    before = await interrupted_turn(once, model, "")
    async with (
        in_process(once) as gateway,
        gateway.tab(before["session_id"], after="0.0.end") as tab,
    ):
        assert (await tab.ends())["code"] == "interrupted"
    # Its reply row exists, even empty.
    assert gateway.replies() == [("interrupted", "")]


async def test_many_open_turns_are_all_taken_up_even_if_the_queue_is_short(
    tmp_path: Path, model: ScriptedModel
) -> None:
    wide = settings_for(tmp_path / "chat.db", model.url, llm_max_concurrency=3)
    async with in_process(wide) as gateway:
        sessions = [await gateway.new_session() for _ in range(3)]
        for session_id in sessions:
            async with gateway.tab(session_id) as tab:
                await tab.chat("hi")
                await call_of(model)
    model.autoreply(lambda _: ["done"])
    narrow = settings_for(tmp_path / "chat.db", model.url, llm_max_waiting=0)
    async with in_process(narrow) as gateway:
        for session_id in sessions:
            async with gateway.tab(session_id, after="0.0.end") as tab:
                assert (await tab.ends())["finish_reason"] == "stop"
    assert gateway.replies() == [("stop", "done")] * 3


# Stopping


async def test_while_draining_new_turns_are_refused_and_open_ones_end(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab, gateway.tab() as other:
        await tab.chat("hi", request_id="r1")
        call = await call_of(model)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(gateway.house.turns.drain, 60)
            await anyio.wait_all_tasks_blocked()
            error = await other.refused(type="chat", message="too late", request_id="r2")
            assert (error["code"], error["retryable"]) == ("shutting_down", True)
            assert error["request_id"] == "r2"
            body = {"session_id": other.session_id, "message": "too late"}
            refused = await gateway.http.post("/api/chat", json=body)
            assert (refused.status_code, refused.json()["code"]) == (503, "shutting_down")
            # A repeat is recognised before that, too.
            assert (await tab.chat("hi", request_id="r1"))["duplicate"] is True
            await call.say("bye")
            await call.complete()
            assert (await tab.ends())["finish_reason"] == "stop"
    assert gateway.replies() == [("stop", "bye")]


async def test_what_does_not_end_in_time_is_left_open_and_readers_are_told(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await tab.chat("hi")
        call = await call_of(model)
        await call.say("one ")
        await tab.text_until("one ")
        await gateway.house.turns.drain(within_s=0)
        error = await tab.next("error")
        assert (error["code"], error["retryable"]) == ("shutting_down", True)
        assert not {"id", "turn"} & set(error)
        assert tab.cursor == "1.1.4"
        gateway.house.broker.close()
        assert await tab.closed() == 1012
    assert gateway.rows("SELECT status, checkpoint FROM turns") == [("running", "one ")]


async def test_every_turn_that_was_left_open_is_taken_up_however_many_there_are(
    settings: Settings, model: ScriptedModel
) -> None:
    async with in_process(settings) as gateway:
        for _ in range(MANY):
            session_id = await gateway.new_session()
            await gateway.house.database.write(turns.accept(new_turn(session_id)))
    async with in_process(settings) as gateway:
        assert gateway.house.turns.running == MANY
    assert gateway.rows("SELECT DISTINCT attempt FROM turns") == [(2,)]
