"""Several nodes in one process, on one real Redis: runners, tabs, and what storage would say."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar, cast

import anyio

from gateway.brokers.live import LiveTurn
from gateway.brokers.redis import BrokerTimes, RedisBroker, open_redis_broker
from gateway.conversation import Reader
from gateway.figures import Figures
from gateway.nodes.link import Link, LinkTimes, open_link
from protocol.cursor import BEGINNING, END, Cursor
from protocol.errors import Refusal
from protocol.server_frames import Frame, Start, UserMessage, token_frames
from storage.claims import Claim
from storage.database import Database
from storage.operations import Operation

T = TypeVar("T")

SESSION = "a-session"
_NUMBERS = count(1)
LINK = LinkTimes(connect_s=0.5, answer_s=0.4, first_retry_s=0.02, last_retry_s=0.1)
TIMES = BrokerTimes(lazy_s=0.03, compare_s=0.2, quiet_s=30.0, refresh_s=0.5, keep_s=20.0)


async def until(condition: Callable[[], object], within_s: float = 10.0) -> None:
    """Wait for what nobody announces."""
    with anyio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110 -- there is no event for it
            await asyncio.sleep(0.005)


def live_turn(turn: int = 1, attempt: int = 1) -> LiveTurn:
    return LiveTurn(
        Start(
            id=str(Cursor(turn, attempt, 0)),
            turn=turn,
            attempt=attempt,
            message_id=f"reply-{turn}",
            user_message=UserMessage(
                message_id=f"user-{turn}", content="hi 안녕", created_at="now"
            ),
        )
    )


def ending_of(turn: LiveTurn) -> Frame:
    at = Cursor(turn.turn, turn.attempt, END)
    return Frame("complete", at, json.dumps({"type": "complete", "id": str(at), "turn": at.turn}))


class Stored:
    """The turns that are over, as storage would tell of them."""

    def __init__(self) -> None:
        self._turns: dict[int, tuple[Start | Frame, int, str, Frame]] = {}
        self.asked = 0

    def store(self, turn: LiveTurn, text: str) -> Frame:
        ending = ending_of(turn)
        self._turns[turn.turn] = (turn.start, turn.attempt, text, ending)
        return ending

    def after(self, cursor: Cursor) -> list[Frame]:
        self.asked += 1
        frames: list[Frame] = []
        for number in sorted(self._turns):
            start, attempt, text, ending = self._turns[number]
            if (number, attempt, END) <= cursor:
                continue
            offset = cursor.offset if (number, attempt) == cursor[:2] else 0
            if (number, attempt) != cursor[:2]:
                frames.append(cast(Frame, start))
            rest, at = text[offset:], Cursor(number, attempt, len(text))
            frames += token_frames(at, rest, len(text)) if rest else []
            frames.append(ending)
        return frames


class Asked:
    """Stands in for the database of one tab."""

    def __init__(self, stored: Stored, tab: "Tab") -> None:
        self._stored = stored
        self._tab = tab

    async def read(self, operation: Operation[T]) -> T:
        operation.close()
        await asyncio.sleep(0)
        return cast(T, self._stored.after(self._tab.reader.cursor))


class Tab:
    """Follows a session on one node and folds what it is told, as a client does."""

    def __init__(self, node: "Node", stored: Stored, session_id: str = SESSION) -> None:
        self._node = node
        self.stored = stored
        self._session_id = session_id
        self._rung = asyncio.Event()
        self._told = asyncio.Event()
        self.reader: Reader
        self.frames: list[Frame] = []
        self.texts: dict[int, str] = {}
        self.starts: list[tuple[int, int]] = []
        self.ended: list[int] = []
        self.asides: list[dict[str, Any]] = []
        self.token_frames = 0
        self.refusal: Refusal | None = None

    @property
    def text(self) -> str:
        """The reply of the newest turn."""
        return self.texts[max(self.texts)] if self.texts else ""

    @asynccontextmanager
    async def open(self, at: Cursor = BEGINNING) -> AsyncIterator["Tab"]:
        with self._node.broker.watch(self._session_id, self._rung.set) as channel:
            database = cast(Database, Asked(self.stored, self))
            self.reader = Reader(
                Claim(self._session_id), at, channel=channel, database=database, figures=Figures()
            )
            reading = asyncio.create_task(self._read())
            try:
                yield self
            finally:
                reading.cancel()
                await asyncio.wait([reading])
                if not reading.cancelled() and (error := reading.exception()):
                    raise error

    async def until(self, condition: Callable[["Tab"], object], within_s: float = 10.0) -> None:
        """Wait until what was told so far is as it should be."""
        try:
            with anyio.fail_after(within_s):
                while not condition(self):
                    self._told.clear()
                    await self._told.wait()
        except TimeoutError:
            told = (self.starts, self.texts, self.ended, self.refusal)
            raise AssertionError(f"so far: {told}") from None

    async def shows(self, text: str, *, turn: int = 1, within_s: float = 10.0) -> None:
        """Wait until the reply of a turn has come this far."""
        await self.until(lambda tab: tab.texts.get(turn) == text, within_s)

    async def sees_end(self, turn: int = 1) -> None:
        """Wait for the end of a turn."""
        await self.until(lambda tab: turn in tab.ended)

    async def _read(self) -> None:
        try:
            while True:
                self._rung.clear()
                frames = await self.reader.read()
                for frame in frames:
                    self._fold(frame)
                self._told.set()
                if not frames:
                    await self._rung.wait()
        except Refusal as refusal:
            self.refusal = refusal
            self._told.set()

    def _fold(self, frame: Frame) -> None:
        event = json.loads(frame.text)
        self.frames.append(frame)
        if frame.cursor is None:
            self.asides.append(event)
            return
        turn, attempt, offset = frame.cursor
        if frame.type == "start":
            assert (turn, attempt) > max(self.starts, default=(0, 0)), "a start that is no news"
            self.starts.append((turn, attempt))
            self.texts[turn] = ""
        elif frame.type == "token":
            assert (turn, attempt) == self.starts[-1]
            self.texts[turn] += event["content"]
            self.token_frames += 1
            assert len(self.texts[turn]) == offset, "a gap or a repeat"
        else:
            assert turn not in self.ended, "ended twice"
            self.ended.append(turn)


@dataclass
class Node:
    """One node: its link and its broker."""

    link: Link
    broker: RedisBroker
    stored: Stored

    def begin(self, turn: int = 1, attempt: int = 1, session_id: str = SESSION) -> "Run":
        return Run(self, live_turn(turn, attempt), session_id)

    def tab(self, session_id: str = SESSION) -> Tab:
        return Tab(self, self.stored, session_id)

    def is_empty(self) -> bool:
        """Whether nothing is kept of any session."""
        broker = self.broker
        kept = (broker._views, broker._local._channels, self.link._ears._wanted)
        comparing = broker._comparing
        due = (comparing._due, comparing._unread, comparing._doubtful)
        return broker._sending.idle and not any(kept) and not any(due)


class Run:
    """A turn that runs on a node."""

    def __init__(self, node: Node, live: LiveTurn, session_id: str) -> None:
        self._node = node
        self.live = live
        self.session_id = session_id
        self.looked = asyncio.Event()
        self.publisher = node.broker.begin(session_id, live, self.looked.set)
        self._text = ""
        self._count = 0

    @property
    def text(self) -> str:
        """All that was said."""
        return self._text

    def say(self, *pieces: str) -> None:
        for piece in pieces:
            self._text += piece
            self._count += 1
            self.publisher.append(piece, token_count=self._count)

    def end(self) -> None:
        """Store the end, then announce it."""
        ending = self._node.stored.store(self.live, self._text)
        self.publisher.end(ending)


class Nodes:
    """Opens nodes that share a server and what storage says."""

    def __init__(self, url: str, *, prefix: str, stack: AsyncExitStack, stored: Stored) -> None:
        self.url = url
        self.prefix = prefix
        self.stored = stored
        self._stack = stack

    async def open(self, times: BrokerTimes = TIMES) -> Node:
        link = await self._stack.enter_async_context(
            open_link(self.url, prefix=self.prefix, node=f"n{next(_NUMBERS)}", times=LINK)
        )
        broker = await self._stack.enter_async_context(open_redis_broker(link, times))
        return Node(link, broker, self.stored)


@asynccontextmanager
async def some_nodes(
    url: str, prefix: str, *, stored: Stored | None = None
) -> AsyncIterator[Nodes]:
    with anyio.fail_after(60):
        async with AsyncExitStack() as stack:
            yield Nodes(url, prefix=prefix, stack=stack, stored=stored or Stored())
