"""A wall clock that jumps: it changes no order and ends no wait."""

from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest

from gateway.settings import Settings
from storage import times
from tests.gateway.harness import Gateway, Tab, call_of, in_process, settings_for
from tests.llm.scripted import ScriptedModel

A_DAY = timedelta(days=1)


class WallClock(datetime):
    """The time of day as `storage.times` reads it, set wrong by `off`."""

    off = timedelta()

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        return datetime.now(tz) + cls.off


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> type[WallClock]:
    """The one clock that all stored times are read from."""
    monkeypatch.setattr(WallClock, "off", timedelta())
    monkeypatch.setattr(times, "datetime", WallClock)
    return WallClock


@pytest.fixture
def settings(tmp_path: Path, model: ScriptedModel) -> Settings:
    return settings_for(tmp_path / "chat.db", model.url)


async def _exchange(
    gateway: Gateway, tab: Tab, model: ScriptedModel, number: int
) -> list[tuple[str, str]]:
    """Ask and get a reply; return the context that the model was given."""
    await tab.chat(f"질문 {number}")
    call = await call_of(model)
    await call.say(f"대답 {number}")
    await call.complete()
    assert (await tab.ends(number))["id"] == f"{number}.1.end"
    _, *context, question = call.messages
    assert question["content"] == f"질문 {number}"
    return [(message["role"], message["content"]) for message in context]


def _said(turns: range) -> list[tuple[str, str]]:
    pairs = [(("user", f"질문 {turn}"), ("assistant", f"대답 {turn}")) for turn in turns]
    return [message for pair in pairs for message in pair]


@pytest.mark.parametrize("jump", [-A_DAY, A_DAY], ids=["backwards", "forwards"])
async def test_order_is_that_of_the_turns_whatever_the_clock_says(
    gateway: Gateway, model: ScriptedModel, wall: type[WallClock], jump: timedelta
) -> None:
    async with gateway.tab() as tab:
        for number in range(1, 5):
            assert await _exchange(gateway, tab, model, number) == _said(range(1, number))
            wall.off += jump
        page = await gateway.messages(tab.session_id)
        shown = [(message["role"], message["content"]) for message in page["messages"]]
        assert shown == _said(range(1, 5))
        created = [datetime.fromisoformat(message["created_at"]) for message in page["messages"]]
        assert (created == sorted(created)) == (jump > timedelta()), "the clock did jump"
        before = page["messages"][4]["message_id"]
        older = await gateway.messages(tab.session_id, before=before)
        assert [message["turn"] for message in older["messages"]] == [1, 1, 2, 2]
        newest = await gateway.messages(tab.session_id, limit=2)
        assert [message["turn"] for message in newest["messages"]] == [4, 4]
        await _resumes_anywhere(gateway, tab)


async def _resumes_anywhere(gateway: Gateway, tab: Tab) -> None:
    for after, turns in (("0.0.end", [1, 2, 3, 4]), ("2.1.end", [3, 4]), ("3.1.1", [4])):
        async with gateway.tab(tab.session_id, after=after) as again:
            assert again.ready["resumed"] is True
            await again.ends(4)
            starts = [frame["turn"] for frame in again.frames if frame["type"] == "start"]
            assert starts == turns


@pytest.mark.parametrize("jump", [-A_DAY, A_DAY], ids=["backwards", "forwards"])
async def test_a_running_and_a_waiting_turn_do_not_notice_a_jump(
    tmp_path: Path, model: ScriptedModel, wall: type[WallClock], jump: timedelta
) -> None:
    settings = settings_for(tmp_path / "chat.db", model.url, llm_max_concurrency=1)
    async with in_process(settings) as gateway, gateway.tab() as tab, gateway.tab() as waiting:
        await tab.chat("질문")
        call = await call_of(model)
        await call.say("하나 ")
        await tab.text_until("하나 ")
        await waiting.chat("나도")
        await waiting.next("queued")
        wall.off += jump
        await call.say("둘")
        await tab.text_until("하나 둘")
        await call.complete()
        timing = (await tab.ends())["timing"]
        assert 0 <= timing["first_token_ms"] <= timing["duration_ms"] < 60_000
        await (await call_of(model)).complete()
        assert 0 <= (await waiting.ends())["timing"]["queue_ms"] < 60_000


async def _leave_open(settings: Settings, model: ScriptedModel) -> Tab:
    async with in_process(settings) as gateway, gateway.tab() as tab:
        await tab.chat("질문", request_id="r1")
        call = await call_of(model)
        await call.say("하나 ")
        await tab.text_until("하나 ")
    return tab


async def test_an_open_turn_from_the_future_is_run_again(
    settings: Settings, model: ScriptedModel, wall: type[WallClock]
) -> None:
    wall.off = A_DAY
    before = await _leave_open(settings, model)
    wall.off = timedelta()
    async with (
        in_process(settings) as gateway,
        gateway.tab(before.session_id, after=before.cursor) as tab,
    ):
        call = await call_of(model)
        await call.say("다시")
        await call.complete()
        assert (await tab.ends())["id"] == "1.2.end"
        assert tab.text() == "다시"
    [(asked, replied)] = gateway.rows("SELECT created_at, ended_at FROM turns")
    assert replied < asked, "ended before it was asked, by a clock that nobody relies on"


async def test_turns_from_the_future_are_not_run_again_for_ever(
    settings: Settings, model: ScriptedModel, wall: type[WallClock]
) -> None:
    wall.off = A_DAY
    before = await _leave_open(settings, model)
    wall.off = timedelta()
    for _ in range(settings.max_attempts - 1):
        async with in_process(settings):
            await call_of(model)
    async with (
        in_process(settings) as gateway,
        gateway.tab(before.session_id, after=before.cursor) as tab,
    ):
        error = await tab.ends()
        assert (error["code"], error["id"]) == ("interrupted", "1.4.end")
    assert gateway.replies() == [("interrupted", "하나 ")]


def test_the_clock_under_test_is_the_one_that_times_are_stored_by(wall: type[WallClock]) -> None:
    wall.off = timedelta(days=365)
    assert times.utc_now() > times.rfc3339(datetime.now(UTC) + timedelta(days=364))
