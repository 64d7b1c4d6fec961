"""Reference clients: what a program has to do to chat without losing or repeating anything.

All of it is here: fold the events into turns, remember the `id` of the last one, come back with
it when the connection breaks, and send again, with the same `request_id`, what may not have
arrived. Cursors are handed back unread.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any, Self
from urllib.parse import urlencode
from uuid import uuid4

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

Json = dict[str, Any]

RETRY_WITHIN_S = 0.05
"""Jitter before coming back; out in the world it would grow from try to try."""

_LOST = (OSError, EOFError, TimeoutError, WebSocketException)


class Refused(Exception):
    """The gateway will not do it, now or later; `problem` says why."""

    def __init__(self, problem: Json) -> None:
        super().__init__(f"{problem['code']}: {problem.get('message') or problem.get('detail')}")
        self.problem = problem


@dataclass
class Turn:
    """A question and its reply, as a client shows them."""

    number: int
    question: str
    request_id: str | None = None
    text: str = ""
    ending: Json | None = None
    replaced: bool = False


class Log:
    """A session as one client knows it: its turns, and the cursor to go on from."""

    def __init__(self) -> None:
        self.turns: dict[int, Turn] = {}
        self.cursor: str | None = None
        self._news = asyncio.Condition()

    async def fold(self, event: Json) -> None:
        """Take the next event; frames that are not part of the log change nothing."""
        match event:
            case {"type": "start", "turn": number}:
                self._start(number, event)
            case {"type": "token", "turn": number, "content": content}:
                self.turns[number].text += content
            case {"type": "complete" | "error", "turn": number}:
                self.turns[number].ending = event
        self.cursor = event.get("id", self.cursor)
        await self.ring()

    def load(self, history: Json) -> None:
        """Begin anew with a page of history."""
        self.turns.clear()
        for message in history["messages"]:
            number = message["turn"]
            if message["role"] == "user":
                self.turns[number] = Turn(number, message["content"])
            elif number in self.turns:
                self.turns[number].text = message["content"]
                self.turns[number].ending = message
        self.cursor = history["cursor"]

    def of_request(self, request_id: str) -> Turn | None:
        """Find the turn that a request became, once its `start` is here."""
        return next((turn for turn in self.turns.values() if turn.request_id == request_id), None)

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until something is so, looking after each event."""
        async with self._news:
            await self._news.wait_for(true)

    async def ring(self) -> None:
        """Let everybody who waits look again."""
        async with self._news:
            self._news.notify_all()

    def _start(self, number: int, start: Json) -> None:
        # Whatever the attempt: what was shown of this turn's reply is void.
        question = start["user_message"]["content"]
        self.turns[number] = Turn(number, question, start.get("request_id"))
        for turn in self.turns.values():
            if start.get("replaces", number) <= turn.number < number:
                turn.replaced = True


class WebSocketClient:
    """One tab: it stays connected, and goes on where it was.

    async with WebSocketClient("ws://127.0.0.1:8080/ws") as tab:
        turn = await tab.ask("안녕하세요")
    """

    open_within_s: float = 10
    close_within_s: float = 10
    """How long handshakes may take: a gateway that stands still is connected to all the same."""

    def __init__(
        self,
        url: str,
        *,
        session_id: str | None = None,
        log: Log | None = None,
        history: Callable[[str], Awaitable[Json]] | None = None,
        dice: Random | None = None,
    ) -> None:
        self.session_id = session_id
        self.log = log or Log()
        self.connections = 0
        self.duplicates = 0
        self._url = url
        self._history = history
        self._dice = dice or Random()
        self._socket: ClientConnection | None = None
        self._unanswered: dict[str, Json] = {}
        self._refused: dict[str, Json] = {}
        self._wait_s = 0.0

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._running.cancel()
        with suppress(asyncio.CancelledError):
            await self._running

    async def ask(self, message: str, **fields: Any) -> Turn:
        """Send a message and wait until its turn is over, whatever happens to the connection.

        Raises `Refused`.
        """
        request_id = fields.setdefault("request_id", str(uuid4()))
        frame = {"type": "chat", "message": message, **fields}
        while (turn := await self._answer(request_id, frame)) is None:
            refusal = self._refused.pop(request_id)
            if not refusal["retryable"]:
                raise Refused(refusal)
            await asyncio.sleep(wait_s(refusal, self._dice))
        return turn

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until something is so of the log; raises what ended the connection for good."""
        reached = asyncio.create_task(self.log.until(true))
        try:
            await asyncio.wait((reached, self._running), return_when=asyncio.FIRST_COMPLETED)
            if self._running.done():
                await self._running
        finally:
            reached.cancel()

    async def run(self) -> None:
        """Stay connected until cancelled; raises `ConnectionClosed` if it must not come back."""
        while True:
            try:
                async with connect(
                    self._address(),
                    proxy=None,
                    compression=None,
                    open_timeout=self.open_within_s,
                    close_timeout=self.close_within_s,
                ) as socket:
                    await self._talk(socket)
            except ConnectionClosed as closed:
                if closed.rcvd is not None and 4500 <= closed.rcvd.code <= 4999:
                    raise
            except _LOST:
                pass
            finally:
                self._socket = None
            await asyncio.sleep(self._wait_s + self._dice.uniform(0, RETRY_WITHIN_S))

    async def took(self, frame: Json) -> None:
        """Look at a frame after it has been folded; for subclasses."""

    async def sent(self, frame: Json) -> None:
        """Look at a frame after it has been sent; for subclasses."""

    def _address(self) -> str:
        query = {"session_id": self.session_id, "after": self.log.cursor}
        return f"{self._url}?{urlencode({k: v for k, v in query.items() if v is not None})}"

    async def _talk(self, socket: ClientConnection) -> None:
        self._wait_s = 0.0
        self.connections += 1
        async for text in socket:
            frame = json.loads(text)
            if frame["type"] == "ready":
                await self._begin(socket, frame)
            await self._take(frame)
            await self.took(frame)

    async def _begin(self, socket: ClientConnection, ready: Json) -> None:
        self.session_id = ready["session_id"]
        if self.log.cursor is not None and not ready["resumed"]:
            await self._start_over(ready["session_id"])
        self.log.cursor = ready["cursor"]
        await self.log.ring()
        self._socket = socket
        # Whether these arrived before the connection broke nobody knows; the id makes it safe.
        for frame in tuple(self._unanswered.values()):
            await self._send(frame)

    async def _start_over(self, session_id: str) -> None:
        assert self._history is not None, "a cursor was not honoured, and there is no history"
        self.log.load(await self._history(session_id))
        raise ConnectionAbortedError("come back with the cursor of the history")

    async def _take(self, frame: Json) -> None:
        match frame:
            case {"type": "accepted", "duplicate": duplicate}:
                self._unanswered.pop(frame.get("request_id", ""), None)
                self.duplicates += duplicate
            case {"type": "error", "request_id": str(request_id)} if "turn" not in frame:
                self._unanswered.pop(request_id, None)
                self._refused[request_id] = frame
                await self.log.ring()
            case {"type": "reconnect", "after_ms": after_ms}:
                self._wait_s = after_ms / 1000
            case _:
                await self.log.fold(frame)

    async def _answer(self, request_id: str, frame: Json) -> Turn | None:
        """Send a request and wait for the end of its turn; None if it is refused."""

        def ended() -> Turn | None:
            turn = self.log.of_request(request_id)
            return turn if turn is not None and turn.ending is not None else None

        self._unanswered[request_id] = frame
        try:
            await self._send(frame)
            await self.until(lambda: ended() is not None or request_id in self._refused)
        finally:
            self._unanswered.pop(request_id, None)
        return ended()

    async def _send(self, frame: Json) -> None:
        if self._socket is not None:
            with suppress(ConnectionClosed):  # it is sent again by the next connection
                await self._socket.send(json.dumps(frame, ensure_ascii=False))
                await self.sent(frame)


def wait_s(problem: Json, dice: Random) -> float:
    """How long to wait before a refused request is sent again: as told, and a little jitter."""
    retry_after_ms: float = problem.get("retry_after_ms") or 0
    return retry_after_ms / 1000 + dice.uniform(0, RETRY_WITHIN_S)
