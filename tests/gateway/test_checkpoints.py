"""When the text of open turns is kept, so that a crash loses little of it."""

import asyncio
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from gateway.checkpoints import Checkpoints
from gateway.run import TurnLimits
from storage.sqlite_file import SqliteDatabase
from tests.gateway.harness import WITHIN_S, call_of, in_process, settings_for
from tests.llm.scripted import ScriptedModel

EVERY_S = 0.05


class Keeper:
    """Notes in a common log when it is told to keep its text."""

    def __init__(self, log: list[str], name: str) -> None:
        self._log = log
        self._name = name
        self.told = asyncio.Event()

    def keep(self) -> None:
        self._log.append(self._name)
        self.told.set()

    async def was_told(self) -> None:
        with anyio.fail_after(WITHIN_S):
            await self.told.wait()


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
async def checkpoints() -> Checkpoints:
    return Checkpoints(every_s=EVERY_S)


async def test_a_turn_is_told_once_each_time_it_asks(
    checkpoints: Checkpoints, log: list[str]
) -> None:
    turn, other = Keeper(log, "turn"), Keeper(log, "other")
    checkpoints.ask(turn.keep)
    await turn.was_told()
    checkpoints.ask(other.keep)
    await other.was_told()
    assert log == ["turn", "other"]
    turn.told.clear()
    checkpoints.ask(turn.keep)
    await turn.was_told()
    assert log == ["turn", "other", "turn"]


async def test_a_turn_is_told_in_time_however_many_ask_after_it(
    checkpoints: Checkpoints, log: list[str]
) -> None:
    loop = asyncio.get_running_loop()
    turn, asked_at = Keeper(log, "turn"), loop.time()
    checkpoints.ask(turn.keep)
    while not turn.told.is_set():
        checkpoints.ask(Keeper(log, "another").keep)
        await anyio.lowlevel.checkpoint()
    assert log[0] == "turn"
    assert EVERY_S * 0.9 <= loop.time() - asked_at < WITHIN_S


async def test_all_that_ask_meanwhile_are_told_in_the_same_step(
    checkpoints: Checkpoints, log: list[str]
) -> None:
    first, second = Keeper(log, "first"), Keeper(log, "second")
    checkpoints.ask(first.keep)
    await anyio.sleep(EVERY_S / 2)
    checkpoints.ask(second.keep)
    await first.was_told()
    assert log == ["first", "second"]


async def test_a_turn_that_is_over_is_not_told(checkpoints: Checkpoints, log: list[str]) -> None:
    over, open_turn = Keeper(log, "over"), Keeper(log, "open")
    checkpoints.ask(over.keep)
    checkpoints.ask(open_turn.keep)
    checkpoints.forget(over.keep)
    checkpoints.forget(over.keep)
    await open_turn.was_told()
    assert log == ["open"]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts of all checkpoints, of turns that are kept every few milliseconds."""
    fields = TurnLimits.__init__.__defaults__
    assert fields is not None
    defaults = dict(zip(TurnLimits.__match_args__, fields, strict=True))
    quick = {**defaults, "checkpoint_s": EVERY_S}
    monkeypatch.setattr(TurnLimits.__init__, "__defaults__", tuple(quick.values()))
    texts: list[str] = []
    submit = SqliteDatabase.submit

    def noted(self: SqliteDatabase, operation: Any) -> Any:
        if operation.__name__ == "checkpoint":
            texts.append(operation.gi_frame.f_locals["text"])
        return submit(self, operation)

    monkeypatch.setattr(SqliteDatabase, "submit", noted)
    return texts


async def test_a_turn_is_kept_only_when_its_text_has_grown(
    kept: list[str], tmp_path: Path, model: ScriptedModel
) -> None:
    settings = settings_for(tmp_path / "chat.db", model.url, llm_max_concurrency=2)
    async with (
        in_process(settings) as gateway,
        gateway.tab() as silent,
        gateway.tab() as busy,
    ):
        await silent.chat("hi")
        silent_call = await call_of(model)
        await silent_call.say("one ")
        await silent.text_until("one ")
        await busy.chat("hello")
        busy_call = await call_of(model)
        with anyio.fail_after(WITHIN_S):
            while len(kept) < 5:
                await busy_call.say(".")
                await busy.next("token")
        assert kept.count("one ") == 1
        await silent_call.say("two")
        await silent.text_until("one two")
        with anyio.fail_after(WITHIN_S):
            while "one two" not in kept:
                await busy_call.say(".")
                await busy.next("token")
        await silent_call.complete()
        await busy_call.complete()
        await silent.ends()
        await busy.ends()
        assert gateway.rows("SELECT checkpoint FROM turns") == [(None,), (None,)]
