"""What becomes of a turn whose gateway was killed in the middle of it."""

import asyncio
import inspect
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from types import CodeType
from typing import Any

import anyio
import httpx
import pytest

from gateway import visits
from llm.simulator.script import pieces_of
from storage import turns
from storage.operations import Operation
from storage.sqlite_file import SqliteDatabase
from tests.faults.killing import HAPPENS_WITHIN_S, World, kill, world
from tests.faults.testimony import WitnessTab
from tests.gateway.harness import call_of, in_process, settings_for
from tests.llm.scripted import ScriptedModel
from tests.whole.audit import StrictLog
from tests.whole.clients import Json, Turn

INTERVAL_MS = 20
LONG = f"길게 말해 주세요 #sim pieces=2000 interval_ms={INTERVAL_MS} first_token_ms=0#"
PIECES_IN_2_S = 2_000 // INTERVAL_MS
ROUND_TRIPS = 20


@asynccontextmanager
async def asked(killed: World) -> AsyncIterator[tuple[WitnessTab, asyncio.Task[Turn]]]:
    """A tab that asks for a long reply, whether or not there is a gateway yet."""
    tab = WitnessTab(killed.socket_url, killed.testimony, log=StrictLog())
    async with asyncio.timeout(HAPPENS_WITHIN_S), tab:
        asking = asyncio.create_task(tab.ask(LONG, request_id="once"))
        try:
            yield tab, asking
        finally:
            asking.cancel()


def _has_pieces(tab: WitnessTab, attempt: int, count: int) -> Callable[[], bool]:
    def true() -> bool:
        at = tab.log.cursor or ""
        return at.startswith(f"1.{attempt}.") and len(pieces_of(tab.log.turns[1].text)) >= count

    return true


async def _killed_at(killed: World, tab: WitnessTab, attempt: int, pieces: int) -> str:
    """Run a gateway until an attempt has said so much, then kill it; return what was shown."""
    async with killed.gateway() as program:
        await tab.until(_has_pieces(tab, attempt, pieces))
        shown = tab.log.turns[1].text
        await kill(killed, program)
    [turn] = killed.confirm().turns
    assert (turn.attempt, turn.status) == (attempt, "running")
    return shown


@pytest.mark.parametrize(
    ("settings", "last_attempt"),
    [({"RERUN_WITHIN_S": "0.001"}, 1), ({"MAX_ATTEMPTS": "1"}, 1), ({}, 3)],
    ids=["too old", "only one attempt", "killed three times"],
)
async def test_a_turn_that_is_not_run_again_ends_interrupted_with_nearly_all_it_had_said(
    tmp_path: Path, settings: dict[str, str], last_attempt: int
) -> None:
    async with world(tmp_path, "interrupt") as killed, asked(killed) as (tab, asking):
        killed.settings.update(settings)
        shown = await _killed_at(killed, tab, 1, killed.dice.randint(100, 150))
        for attempt in range(2, last_attempt + 1):
            shown = await _killed_at(killed, tab, attempt, 5)
        cursor = tab.log.cursor
        async with killed.gateway() as program:
            turn = await asking
            # Now: a tab that is told to come back soon may be greeted once more before the end.
            frames = tuple(tab.frames)
            assert await program.stop() == 0
        [kept] = killed.confirm().turns
    assert cursor is not None
    assert cursor.startswith(f"1.{last_attempt}.")
    _check_interrupted(frames, last_attempt + 1, turn.text)
    starts = [frame for _, frame in killed.testimony.promises if frame["type"] == "start"]
    assert [start["attempt"] for start in starts] == list(range(1, last_attempt + 2))
    assert len({start["message_id"] for start in starts}) == 1
    assert (kept.status, kept.attempt, kept.reply) == ("interrupted", last_attempt + 1, turn.text)
    # A kill loses what was said since the last checkpoint, about a second of it.
    assert turn.text.startswith(shown) or shown.startswith(turn.text)
    assert len(pieces_of(shown)) - len(pieces_of(turn.text)) <= PIECES_IN_2_S
    assert turn.text


def _check_interrupted(frames: Sequence[Json], attempt: int, text: str) -> None:
    ready, start, *tokens, error = [f for f in frames if f["type"] not in ("accepted", "reconnect")]
    assert ready["resumed"] is True
    assert (start["type"], start["id"]) == ("start", f"1.{attempt}.0")
    assert "".join(token["content"] for token in tokens) == text
    assert (error["type"], error["id"]) == ("error", f"1.{attempt}.end")
    assert (error["code"], error["retryable"]) == ("interrupted", True)
    assert error["message_id"] == start["message_id"]


class CountingTab(WitnessTab):
    """Looks, at every token, whether the file has changed since it last looked."""

    def __init__(self, killed: World) -> None:
        super().__init__(killed.socket_url, killed.testimony, log=StrictLog())
        self.writes = 0
        self.tokens = 0
        self._version = 0
        self._connection = sqlite3.connect(killed.database)

    async def took(self, frame: Json) -> None:
        await super().took(frame)
        [version] = self._connection.execute("PRAGMA data_version").fetchone()
        self.writes += version != self._version
        self._version = version
        self.tokens += frame["type"] == "token"

    def close(self) -> None:
        self._connection.close()


async def test_a_running_turn_is_kept_about_once_a_second_and_never_for_each_token(
    tmp_path: Path,
) -> None:
    pieces = 200
    async with world(tmp_path, "checkpoints") as killed, killed.gateway():
        with closing(CountingTab(killed)) as tab:
            async with asyncio.timeout(HAPPENS_WITHIN_S), tab:
                turn = await tab.ask(f"천천히 #sim pieces={pieces} interval_ms={INTERVAL_MS}#")
    assert turn.ending is not None
    seconds = turn.ending["timing"]["duration_ms"] / 1000
    assert tab.tokens > 4 * tab.writes
    # The session, the turn and its end are written besides; what was noted when it was opened too.
    assert seconds / 2 <= tab.writes <= seconds + 5


class Gate:
    """Keeps the writer from committing operations of one kind, while it is shut."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._shut_for: CodeType | None = None
        self._open = anyio.Event()
        self.held = anyio.Event()
        commit = SqliteDatabase._commit

        async def commit_later(database: SqliteDatabase, batch: list[Any]) -> None:
            if self._shut_for in {operation.gi_code for operation, _ in batch}:
                self.held.set()
                await self._open.wait()
            await commit(database, batch)

        monkeypatch.setattr(SqliteDatabase, "_commit", commit_later)

    @contextmanager
    def shut(self, operation: Callable[..., Operation[Any]]) -> Iterator[None]:
        """Keep them back until the block ends; `held` tells that one has come."""
        self._shut_for = inspect.unwrap(operation).__code__
        self._open, self.held = anyio.Event(), anyio.Event()
        try:
            yield
        finally:
            self._shut_for = None
            self._open.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


async def test_nothing_is_announced_before_it_is_committed(
    tmp_path: Path, model: ScriptedModel, gate: Gate
) -> None:
    async with (
        in_process(settings_for(tmp_path / "chat.db", model.url)) as gateway,
        gateway.tab() as tab,
        gateway.tab(tab.session_id) as other,
    ):
        with gate.shut(visits.accept):
            await tab.send(type="chat", message="질문", request_id="r1")
            await gate.held.wait()
            assert [frame["type"] for frame in await other.settle()] == ["pong", "pong"]
        assert (await tab.receive())["type"] == "accepted"
        assert (await other.next("start"))["attempt"] == 1
        call = await call_of(model)
        with gate.shut(turns.end):
            await call.say("대답")
            await call.complete()
            await gate.held.wait()
            assert "complete" not in {frame["type"] for frame in await other.settle()}
        assert (await other.next("complete"))["id"] == "1.1.end"


async def test_a_next_attempt_is_committed_before_the_model_or_anybody_hears_of_it(
    tmp_path: Path, model: ScriptedModel, gate: Gate
) -> None:
    settings = settings_for(tmp_path / "chat.db", model.url)
    async with in_process(settings) as gateway, gateway.tab() as tab:
        await tab.chat("질문")
        await call_of(model)
    left = anyio.Event()

    async def run() -> None:
        async with in_process(settings) as gateway, gateway.tab(tab.session_id) as again:
            assert (await again.next("start"))["attempt"] == 2
            await left.wait()

    async with anyio.create_task_group() as tasks:
        with gate.shut(visits.take_up):
            tasks.start_soon(run)
            await gate.held.wait()
            before = model.connections
            await _many_round_trips(model)
            assert model.connections == before + ROUND_TRIPS, "the model has heard of it"
        await call_of(model)
        left.set()


async def _many_round_trips(model: ScriptedModel) -> None:
    """Let as much happen in this loop, and over sockets, as a call of the model would take."""
    async with httpx.AsyncClient(trust_env=False, headers={"connection": "close"}) as http:
        for _ in range(ROUND_TRIPS):
            await http.get(f"{model.url}/health")
