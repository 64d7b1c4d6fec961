"""A session's log in all its parts, and its clients, moved one step at a time.

The runner's side stores and announces in steps of their own; a client's read may be under way, in
storage, while other steps happen. Clients read again only when they were given something or were
rung, as the gateway's own loops do, so a lost ring is a lost event.
"""

import asyncio
import json
import sqlite3
from collections.abc import Awaitable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from gateway.brokers.base import Publisher
from gateway.brokers.live import LiveTurn
from gateway.brokers.memory import MemoryBroker
from gateway.conversation import Reader
from gateway.figures import Figures
from gateway.outcome import Outcome, start_event, turn_end
from protocol.cursor import BEGINNING, END, Cursor
from protocol.errors import ErrorCode, Refusal
from protocol.server_frames import MAX_EVENT_CHARS, Frame
from storage import log, turns
from storage.claims import Claim
from storage.database import Database
from storage.turns import NewTurn, StoredTurn

T = TypeVar("T")
Json = dict[str, Any]

SESSION = "a-session"
CLIENTS = 3
WITHIN_S = 20.0
MOST_READS = 1_000


class Client:
    """A client of the session: what it shows, what was sent to it and has not arrived."""

    def __init__(self) -> None:
        self.cursor: str | None = None
        self.texts: dict[int, str] = {}
        self.endings: dict[int, list[str]] = {}
        self.reader: Reader | None = None
        self.arriving: list[Frame] = []
        self.news = asyncio.Event()
        self.reading: asyncio.Task[list[Frame]] | None = None
        self._watching = ExitStack()

    async def connect(self, broker: MemoryBroker, database: Database) -> None:
        """Come, or come back with the cursor as it was received: as text."""
        joined = await database.read(log.join(Claim(SESSION), self.cursor))
        assert joined.resumed == (self.cursor is not None), f"{self.cursor} was not honoured"
        assert self.cursor in (None, str(joined.cursor)) or joined.cursor.offset == 0
        channel = self._watching.enter_context(broker.watch(SESSION, self.news.set))
        self.reader = Reader(
            Claim(SESSION), joined.cursor, channel=channel, database=database, figures=Figures()
        )
        self.cursor = self.cursor or str(joined.cursor)
        self.news.set()

    async def begin_read(self) -> None:
        """Read if there may be something, as far as storage is asked and has not answered."""
        if self.reader is not None and self.reading is None and self.news.is_set():
            self.news.clear()
            self.reading = asyncio.create_task(self.reader.read())
            await asyncio.sleep(0)

    async def end_read(self) -> None:
        """Wait for the answer; who was given something reads again."""
        if self.reading is None:
            return
        reading, self.reading = self.reading, None
        frames = await _soon(reading)
        self.arriving += frames
        if frames:
            self.news.set()

    async def give_up_read(self) -> None:
        """Cancel a read: the reader must be where it was, and what there was is still there."""
        if self.reading is None:
            return
        reading, self.reading = self.reading, None
        reading.cancel()
        [outcome] = await asyncio.gather(reading, return_exceptions=True)
        self.arriving += outcome if isinstance(outcome, list) else []
        self.news.set()

    def receive(self, most: int) -> None:
        """Let some of what was sent arrive."""
        arrived, self.arriving = self.arriving[:most], self.arriving[most:]
        for frame in arrived:
            self._fold(frame)

    async def disconnect(self) -> None:
        """Lose the connection, and all that was on its way."""
        await self.give_up_read()
        self._watching.close()
        self.arriving.clear()
        self.news.clear()
        self.reader = None

    async def read_all(self) -> None:
        """Read and receive until there is nothing more to be told of."""
        for _ in range(MOST_READS):
            if self.reading is None and not self.news.is_set():
                break
            await self.begin_read()
            await self.end_read()
        else:
            raise AssertionError("there is no end of what is told")
        self.receive(len(self.arriving))

    def _fold(self, frame: Frame) -> None:
        event = json.loads(frame.text)
        if frame.cursor is None:
            assert event["turn"] in self.texts, "told of a turn before its start"
            return
        assert event["id"] == str(frame.cursor)
        before = Cursor.parse(self.cursor or "")
        assert before is not None
        assert frame.cursor > before, f"{event['id']} came after {self.cursor}"
        self.cursor = event["id"]
        self._take(event, frame.cursor, before)

    def _take(self, event: Json, here: Cursor, before: Cursor) -> None:
        number = event["turn"]
        if event["type"] == "start":
            assert number - before.turn == (1 if before.ended else 0), "a turn is missing"
            assert here.offset == 0
            self.texts[number] = ""
            return
        assert here[:2] == before[:2], "an event of an attempt without its start"
        if event["type"] == "token":
            assert 0 < len(event["content"]) <= MAX_EVENT_CHARS
            self.texts[number] += event["content"]
            assert len(self.texts[number]) == here.offset
        else:
            self.endings.setdefault(number, []).append(_sorted(event))


def nobody_looks() -> None:
    """There is one node."""


@dataclass
class World:
    """One session: its runner's side, and everybody who reads it."""

    database: Database
    path: Path
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    clients: list[Client] = field(default_factory=lambda: [Client() for _ in range(CLIENTS)])
    accepted: StoredTurn | None = None
    live: LiveTurn | None = None
    publisher: Publisher | None = None
    ended: Frame | None = None
    count: int = 0
    here: Cursor = BEGINNING

    async def run(self, step: tuple[Any, ...]) -> None:
        """Do one step, as far as it makes sense now."""
        match step:
            case ("advance", ending, replaces):
                await self.advance(ending, replaces=replaces)
            case ("append", str(text), times):
                await self.append(text * times)
            case ("place", position) if self.publisher is not None and self.ended is None:
                self.publisher.place(position=position, eta_ms=None)
            case ("checkpoint",) if self.live is not None and self.accepted is not None:
                await self._write(turns.checkpoint(self.accepted, self.live.text()))
            case ("crash", again):
                await self.crash(runs_again=again)
            case ("client", index, action, amount):
                await self.act(self.clients[index], action, amount)

    def check_idle(self) -> None:
        """A client that waits to be rung has been told of all there is."""
        for client in self.clients:
            if client.reader is not None and client.reading is None and not client.news.is_set():
                # Ahead is who joined between the storing of an end and its announcement.
                assert client.reader.cursor >= self.here, "a ring was lost"

    async def append(self, text: str) -> None:
        """Let the reply grow; begin one if there is none."""
        while self.live is None or self.publisher is None:
            await self.advance("", replaces=False)
        if self.ended is None:
            self.publisher.append(text, token_count=self.live.token_count + 1)
            self.here = self.here._replace(offset=self.here.offset + len(text))

    async def advance(self, ending: str, *, replaces: bool) -> None:
        """Take the open turn to its next stage; stored first, announced in a step of its own."""
        if self.accepted is None:
            self.accepted = await self._accept(replaces=replaces and self.count > 0)
        elif self.live is None or self.publisher is None:
            self.live = LiveTurn(start_event(self.accepted))
            self.publisher = self.broker.begin(SESSION, self.live, nobody_looks)
            self.here = Cursor(self.live.turn, self.live.attempt, 0)
        elif self.ended is None:
            self.ended = await self._end(self.accepted, self.live.text(), ending)
        else:
            self.publisher.end(self.ended)
            self.here = self.here._replace(offset=END)
            self.accepted = self.live = self.publisher = self.ended = None

    async def crash(self, *, runs_again: bool) -> None:
        """Let the process die and another one take over: connections and text are lost."""
        for client in self.clients:
            await client.disconnect()
        self.broker = MemoryBroker()
        self.accepted = self.live = self.publisher = self.ended = None
        self.here = BEGINNING  # until it is announced, nobody has to know that a turn is open
        for turn in await _soon(self.database.read(turns.lapsed(most=100))):
            assert await self._write(turns.take_up(turn))
            taken = replace(turn, attempt=turn.attempt + 1, status="running")
            if runs_again:
                self.accepted = taken
            else:
                await self._end(taken, taken.checkpoint, "interrupted")
                self.here = Cursor(taken.turn, taken.attempt, END)

    async def act(self, client: Client, action: str, amount: int) -> None:
        """Do what a client, or its connection, does; who is to read connects first."""
        if action in ("read", "read all", "begin to read") and client.reader is None:
            await client.connect(self.broker, self.database)
        match action:
            case "read":
                await client.begin_read()
                await client.end_read()
                client.receive(amount)
            case "read all":
                await client.read_all()
            case "begin to read":
                await client.begin_read()
            case "end reading":
                await client.end_read()
            case "give up reading":
                await client.give_up_read()
            case "receive":
                client.receive(amount)
            case "disconnect":
                await client.disconnect()

    async def settle(self) -> None:
        """End what is open, and let everybody come back and read all there is."""
        while self.accepted is not None:
            await self.advance("stop", replaces=False)
        self.clients.append(Client())
        self.clients[-1].cursor = str(BEGINNING)
        for client in self.clients:
            if client.reader is None:
                await client.connect(self.broker, self.database)
            await client.read_all()

    async def _accept(self, *, replaces: bool) -> StoredTurn:
        self.count += 1
        new = NewTurn(
            claim=Claim(SESSION),
            message=None if replaces else f"question {self.count}",
            replaces=0 if replaces else None,
            request_id=None,
            fingerprint="",
            generation={},
            status="running",
            user_message_id=f"question-{self.count}",
            reply_message_id=f"reply-{self.count}",
        )
        turn: StoredTurn = await self._write(turns.accept(new))
        return turn

    async def _end(self, turn: StoredTurn, text: str, ending: str) -> Frame:
        outcome = Outcome(text=text, total_tokens=len(text.split()))
        match ending:
            case "stop" | "cancelled":
                outcome = replace(outcome, reason=ending)
            case "interrupted":
                outcome = replace(outcome, error=Refusal(ErrorCode.INTERRUPTED))
            case _:
                outcome = replace(outcome, error=Refusal(ErrorCode.UPSTREAM_ERROR))
        end = turn_end(turn, outcome)
        assert await self._write(turns.end(turn, end))
        return end.event

    async def _write(self, operation: Any) -> Any:
        return await _soon(self.database.write(operation))


async def _soon(waiting: Awaitable[T]) -> T:
    async with asyncio.timeout(WITHIN_S):
        return await waiting


def check(world: World) -> None:
    """Hold what every client shows against the database file."""
    stored = _stored(world.path)
    assert list(stored) == list(range(1, world.count + 1))
    everything = world.clients[-1]
    assert list(everything.texts) == list(stored)
    for client in world.clients:
        assert client.cursor == everything.cursor
        followed = list(client.texts)
        assert followed == list(stored)[len(stored) - len(followed) :]
        for number in followed:
            assert (client.texts[number], client.endings[number]) == stored[number]


def _stored(path: Path) -> dict[int, tuple[str, list[str]]]:
    """Look up what became of each turn, its text and its one ending, past all code of ours."""
    query = (
        "SELECT t.turn, r.content, t.ending FROM turns t"
        " JOIN messages r ON r.message_id = t.reply_message_id ORDER BY t.turn"
    )
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(query).fetchall()
    return {turn: (text, [_sorted(json.loads(ending))]) for turn, text, ending in rows}


def _sorted(event: Json) -> str:
    return json.dumps(event, sort_keys=True)
