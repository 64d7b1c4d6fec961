"""Clients of one session: what each has been told, beside what it should have been."""

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from reprlib import Repr
from typing import Any, NoReturn, TypeVar, cast

import anyio
import httpx
import pytest
from anyio.abc import TaskGroup, TaskStatus
from httpx_ws import AsyncWebSocketSession, WebSocketDisconnect, aconnect_ws
from starlette.applications import Starlette

from protocol.cursor import END
from tests.faults.session import Place, Session, Told
from tests.gateway.harness import WITHIN_S, Gateway, Json, Sse, Tab

T = TypeVar("T")

DONE: Told = ("done",)
GONE: Told = ("refused", "session_not_found", None)


def add(told: list[Told], more: Iterable[Told]) -> None:
    """Put events behind others; where text is cut means nothing, so runs of tokens become one."""
    for event in more:
        last = told[-1] if told else ("",)
        if event[0] == last[0] == "token" and event[2] == last[2]:
            _, at, turn, text, count = event
            told[-1] = ("token", at, turn, last[3] + text, count)
        else:
            told.append(event)


def told_by(frame: Json) -> list[Told]:
    """Say a frame as the model does."""
    match frame:
        case {"type": "ping" | "pong"}:
            return []
        case {"type": "start", "id": at, "turn": turn, "attempt": 1, "user_message": asked}:
            by = (frame.get("replaces"), frame.get("request_id"))
            return [("start", at, turn, asked["content"], *by)]
        case {"type": "token", "id": at, "turn": turn, "content": text, "token_count": count}:
            return [("token", at, turn, text, count)]
        case {"type": "complete", "id": at, "turn": turn, "finish_reason": why}:
            return [("complete", at, turn, why, frame["total_tokens"])]
        case {"type": "error", "id": at, "turn": turn, "code": code}:
            return [("error", at, turn, code)]
        case {"type": "error", "code": code}:
            return [("refused", code, frame.get("request_id"))]
        case {"type": "queued", "turn": turn, "position": position}:
            return [("queued", turn, position)]
        case {"type": "accepted", "turn": turn, "duplicate": known, "status": status}:
            return [("accepted", turn, frame.get("request_id"), known, status)]
        case {"type": "history", "messages": messages, "total_count": count}:
            shown = tuple(map(message_told, messages))
            return [("history", shown, count, frame["next_before"] is None)]
    raise AssertionError(f"nobody expects {frame}")


def message_told(message: Json) -> Told:
    """Say a message of the history as the model does."""
    return (message["role"], message["turn"], message["content"], message["finish_reason"])


class Client:
    """One reader of the log.

    `only` is the turn of a stream that tells one turn alone. Leave it when done with it.
    """

    def __init__(
        self, source: Tab | Sse, left: anyio.Event, place: Place, only: int | None = None
    ) -> None:
        self.source = source
        self.place = place
        self.expected: list[Told] = []
        self.ids: dict[tuple[int, str], str] = {}
        self._told: list[Told] = []
        self._left = left
        self._only = only
        self._told_queued: int | None = None

    @property
    def tab(self) -> Tab | None:
        """The socket, if it is one."""
        return self.source if isinstance(self.source, Tab) else None

    @property
    def done(self) -> bool:
        """Whether it has been told all it asked for."""
        return DONE in self._told

    def expect(self, *events: Told) -> None:
        """Let it be told this."""
        add(self.expected, self._shown(events))

    def follow(self, session: Session) -> None:
        """Let it be told what is new in the log."""
        news = session.after(self.place)
        self.expect(*[event for event in news if self._only in (None, event[2])])
        self.place = max(self.place, session.end)
        turn = session.open_turn
        if turn is not None and turn.status == "queued" and self._only in (None, turn.number):
            self.expect(*[("queued", turn.number, 1)] * (self._told_queued != turn.number))
            self._told_queued = turn.number
        if self._only is not None and self.place >= (self._only, END):
            self.expect(DONE)

    async def keep_up(self) -> None:
        """Wait until it has been told exactly what it should have been, and nothing beyond."""
        while self._told != self.expected:
            if not _begins(self._told, self.expected):
                self._disagree()
            await self._receive()
        if (tab := self.tab) is not None:
            known = len(tab.frames)
            await tab.settle()
            self._hear(tab.frames[known:])
        if self._told != self.expected:
            self._disagree()

    async def closed(self) -> None:
        """Wait until the server closes it, because the session is gone."""
        if (tab := self.tab) is not None:
            known = len(tab.frames)
            assert await tab.closed() == 4504
            self._hear(tab.frames[known:])
        else:
            self.expect(GONE, *[DONE] * (self._only is not None))
            await self.keep_up()
            assert self.done or await self._sse.receive() is None
        if self._told != self.expected:
            self._disagree()
        self.leave()

    def leave(self) -> None:
        """Go away."""
        self._left.set()

    def _shown(self, events: Iterable[Told]) -> Iterable[Told]:
        return events

    def _disagree(self) -> NoReturn:
        brief = Repr()
        brief.maxstring, brief.maxlist, brief.maxtuple = 60, 100, 10
        told, expected = brief.repr(self._told), brief.repr(self.expected)
        raise AssertionError(f"told     {told}\nexpected {expected}")

    @property
    def _sse(self) -> Sse:
        assert isinstance(self.source, Sse)
        return self.source

    async def _receive(self) -> None:
        if (tab := self.tab) is not None:
            self._hear([await tab.receive()])
        elif (event := await self._sse.receive()) is not None:
            self._hear([_without_prefix(event) if self._only is not None else event])
        else:
            assert self._sse.done, f"the stream ended after {self._told}"
            add(self._told, [DONE])

    def _hear(self, frames: list[Json]) -> None:
        for frame in frames:
            self._note_ids(frame)
            add(self._told, self._shown(told_by(frame)))

    def _note_ids(self, frame: Json) -> None:
        """The messages of a turn have the same ids, whatever tells of them."""
        turn = frame.get("turn")
        if turn is not None and (reply := frame.get("message_id")):
            assert self.ids.setdefault((turn, "assistant"), reply) == reply
        if turn is not None and (asked := frame.get("user_message")):
            assert self.ids.setdefault((turn, "user"), asked["message_id"]) == asked["message_id"]
        for message in frame.get("messages", ()):
            place = (message["turn"], message["role"])
            assert self.ids.setdefault(place, message["message_id"]) == message["message_id"]


class Witness(Client):
    """Comes at a moment of its own, and so may have seen a turn wait, or not."""

    def _shown(self, events: Iterable[Told]) -> Iterable[Told]:
        return [event for event in events if event[0] != "queued"]


def _begins(told: list[Told], expected: list[Told]) -> bool:
    """Whether more frames can make what was told what was expected."""
    if len(told) > len(expected):
        return False
    if not told:
        return True
    *_, last = told
    due = expected[len(told) - 1]
    growing = last[0] == due[0] == "token" and last[2] == due[2] and due[3].startswith(last[3])
    return told[:-1] == expected[: len(told) - 1] and (growing or last == due)


def _without_prefix(event: Json) -> Json:
    if event["type"] == "error":
        assert event["message"].startswith("Stream error: ")
    return event


async def held(tasks: TaskGroup, context: AbstractAsyncContextManager[T]) -> tuple[T, anyio.Event]:
    """Open something in a task of its own, so that what is opened first need not be closed last.

    Setting the event closes it.
    """

    async def hold(*, task_status: TaskStatus[tuple[T, anyio.Event]]) -> None:
        left = anyio.Event()
        async with context as value:
            task_status.started((value, left))
            await left.wait()

    opened: tuple[T, anyio.Event] = await tasks.start(hold)
    return opened


class _Response:
    """A response in the making: what `Sse` reads of one, as an ASGI application sends it."""

    def __init__(self, body: bytes) -> None:
        self.status_code = 0
        self.begun = anyio.Event()
        self.left = anyio.Event()
        self._body: bytes | None = body
        self._send, self._pieces = anyio.create_memory_object_stream[bytes](1000)

    async def receive(self) -> Json:
        if (body := self._body) is not None:
            self._body = None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status_code = message["status"]
            self.begun.set()
        elif message.get("body"):
            self._send.send_nowait(message["body"])
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self._send.close()

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        async for piece in self._pieces:
            yield piece

    def close(self) -> None:
        self.left.set()
        self._send.close()
        self._pieces.close()


@asynccontextmanager
async def streamed(
    app: Starlette, method: str, path: str, *, query: str = "", body: bytes = b""
) -> AsyncIterator[Sse]:
    """Open an SSE stream without a socket; httpx would hand it over whole, and only at its end."""
    response = _Response(body)
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(app, scope, response.receive, response.send)
        with anyio.fail_after(WITHIN_S):
            await response.begun.wait()
        assert response.status_code == 200
        try:
            yield Sse(cast(httpx.Response, response))
        finally:
            response.close()


async def turned_away(gateway: Gateway, session_id: str) -> None:
    """Whoever joins a session that is gone is told so."""
    socket: AsyncWebSocketSession
    async with aconnect_ws(f"/ws?session_id={session_id}", gateway.http) as socket:
        with anyio.fail_after(WITHIN_S):
            error = json.loads(await socket.receive_text())
            assert (error["type"], error["code"]) == ("error", "session_not_found")
            with pytest.raises(WebSocketDisconnect) as closed:
                await socket.receive_text()
            assert closed.value.code == 4504
