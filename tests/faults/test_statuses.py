"""What is stored of a turn where two things happen in the same moment."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from llm.client import Ending
from llm.midm import Midm
from storage import sessions
from storage.claims import Claim
from storage.operations import Operation
from storage.sqlite_file import SqliteDatabase
from tests.gateway.harness import Gateway, call_of, in_process, settings_for
from tests.llm.scripted import ScriptedModel


async def stored(gateway: Gateway, session_id: str) -> tuple[Any, ...]:
    """The status and text of the only turn, once what is being written is written."""
    await gateway.house.database.write(sessions.note_use(Claim(session_id)))
    [row] = gateway.rows("SELECT status, finish_reason, checkpoint FROM turns")
    return row


async def test_a_turn_that_is_cancelled_while_it_ends_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever cancelled was told that the turn is being stopped.
    cancel: Callable[[], Awaitable[int]]

    async def stream(self: Midm, messages: Any, generation: Any, say: Any) -> Ending:
        say("다 ", 1)
        assert await cancel() == 1
        return Ending("stop", 1)

    monkeypatch.setattr(Midm, "stream", stream)
    async with (
        in_process(settings_for(tmp_path / "chat.db", "http://127.0.0.1:9")) as gateway,
        gateway.tab() as tab,
    ):
        cancel = lambda: gateway.house.turns.cancel(Claim(tab.session_id), None)  # noqa: E731
        await tab.chat("안녕")
        assert (await tab.ends())["finish_reason"] == "cancelled"
        assert tab.text() == "다 "
        assert await stored(gateway, tab.session_id) == ("cancelled", "cancelled", None)
    assert gateway.replies() == [("cancelled", "다 ")]


async def test_a_turn_whose_place_comes_free_while_it_is_stored_is_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        ScriptedModel() as model,
        in_process(settings_for(tmp_path / "chat.db", model.url)) as gateway,
        gateway.tab() as tab,
    ):
        somebody = await gateway.house.admission.reserve()
        write = SqliteDatabase.write

        async def and_then_be_done(self: SqliteDatabase, operation: Operation[Any]) -> Any:
            written = await write(self, operation)
            somebody.release()
            return written

        monkeypatch.setattr(SqliteDatabase, "write", and_then_be_done)
        accepted = await tab.chat("안녕")
        assert accepted["status"] == "queued"
        call = await call_of(model)
        assert await stored(gateway, tab.session_id) == ("running", None, "")
        await call.complete()
        await tab.ends()
        assert (await stored(gateway, tab.session_id))[0] == "complete"


async def test_a_turn_that_waits_when_the_process_ends_is_left_waiting(tmp_path: Path) -> None:
    async with (
        ScriptedModel() as model,
        in_process(settings_for(tmp_path / "chat.db", model.url)) as gateway,
        gateway.tab() as tab,
    ):
        await gateway.house.admission.reserve()
        await tab.chat("안녕")
        await tab.next("queued")
    assert gateway.rows("SELECT status FROM turns") == [("queued",)]


async def test_what_an_attempt_said_is_kept_until_a_later_one_says_more(tmp_path: Path) -> None:
    async with ScriptedModel() as model:
        settings = settings_for(tmp_path / "chat.db", model.url, max_attempts=2)
        async with in_process(settings) as gateway, gateway.tab() as tab:
            await tab.chat("안녕")
            await (await call_of(model)).say("반쯤 ")
            await tab.text_until("반쯤 ")
        async with in_process(settings) as gateway:
            await call_of(model)
            assert await stored(gateway, tab.session_id) == ("running", None, "반쯤 ")
        async with (
            in_process(settings) as gateway,
            gateway.tab(tab.session_id, after="0.0.end") as tab,
        ):
            await tab.ends()
            [_, reply] = (await tab.history())["messages"]
            assert (reply["content"], reply["finish_reason"]) == ("반쯤 ", "interrupted")
