"""Gateways under test and the clients that talk to them.

`in_process` runs the application without sockets, through httpx-ws: quick, and honest wherever
TCP does not matter. `on_sockets` runs the real server in this loop. Both yield the same client.
"""

import json
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
from httpx_ws import AsyncWebSocketSession, WebSocketDisconnect, aconnect_ws
from httpx_ws.transport import ASGIWebSocketTransport

from gateway.app import create_app
from gateway.house import House
from gateway.server import GatewayServer
from gateway.settings import Settings
from storage.claims import Claim
from storage.turns import NewTurn
from tests.llm.scripted import Call, ScriptedModel

WITHIN_S = 10.0
"""Nothing a test waits for takes that long unless something is broken."""

Json = dict[str, Any]


async def call_of(model: ScriptedModel) -> Call:
    """Wait for the next call of the model server."""
    with anyio.fail_after(WITHIN_S):
        return await model.call()


class Tab:
    """One open WebSocket, and every frame it has received."""

    def __init__(self, socket: AsyncWebSocketSession, ready: Json) -> None:
        self.socket = socket
        self.ready = ready
        self.session_id: str = ready["session_id"]
        self.cursor: str = ready["cursor"]
        self.frames: list[Json] = []

    async def say(self, text: str) -> None:
        """Send a text frame as it is."""
        await self.socket.send_text(text)

    async def send(self, **frame: Any) -> None:
        """Send a JSON frame."""
        await self.say(json.dumps(frame))

    async def chat(self, message: str, **fields: Any) -> Json:
        """Send a message and wait until it is accepted."""
        await self.send(type="chat", message=message, **fields)
        return await self.next("accepted")

    async def receive(self) -> Json:
        """Wait for the next frame, whatever it is."""
        with anyio.fail_after(WITHIN_S):
            frame: Json = json.loads(await self.socket.receive_text())
        self.frames.append(frame)
        self.cursor = frame.get("id", self.cursor)
        return frame

    async def next(self, *types: str) -> Json:
        """Wait for a frame of one of these types, passing over others."""
        while (frame := await self.receive())["type"] not in types:
            pass
        return frame

    async def ends(self, turn: int = 1) -> Json:
        """Wait for the terminal event of a turn."""
        while (frame := await self.next("complete", "error")).get("turn") != turn:
            pass
        return frame

    async def refused(self, **frame: Any) -> Json:
        """Send a frame and wait for the error that answers it."""
        await self.send(**frame)
        return await self.next("error")

    async def history(self, **fields: Any) -> Json:
        """Ask for a page of the history."""
        await self.send(type="history", **fields)
        return await self.next("history")

    async def settle(self) -> list[Json]:
        """Wait until all that the server has to say by now has arrived; return all frames.

        Twice: the first `pong` may overtake events that were appended in the same step.
        """
        for _ in range(2):
            await self.send(type="ping")
            await self.next("pong")
        return self.frames

    async def closed(self) -> int:
        """Wait until the server closes the socket; return its close code."""
        try:
            while True:
                await self.receive()
        except WebSocketDisconnect as closed:
            return closed.code

    def kinds(self, *left_out: str) -> list[str]:
        """The types of all frames so far; runs of `token` count once, as cuts mean nothing."""
        kinds: list[str] = []
        for frame in self.frames:
            if frame["type"] not in left_out and [frame["type"]] != kinds[-1:]:
                kinds.append(frame["type"])
        return kinds

    async def text_until(self, content: str, turn: int = 1) -> None:
        """Wait until that text of a turn's reply has arrived."""
        while self.text(turn) != content:
            await self.next("token")

    def text(self, turn: int = 1) -> str:
        """The reply of a turn as a client shows it: a `start` empties it."""
        shown = ""
        for frame in self.frames:
            if frame.get("turn") == turn and frame["type"] == "start":
                shown = ""
            elif frame.get("turn") == turn and frame["type"] == "token":
                shown += frame["content"]
        return shown


class Sse:
    """One SSE response, read as bytes: the wire is part of the contract."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.raw = b""
        self.events: list[Json] = []
        self.ids: list[str | None] = []
        self.done = False
        self._bytes = response.aiter_raw()
        self._rest = b""

    async def block(self) -> bytes:
        """Wait for the next event or comment, without the empty line behind it; b"" at the end."""
        with anyio.fail_after(WITHIN_S):
            while b"\n\n" not in self._rest:
                piece = await anext(self._bytes, b"")
                if not piece:
                    assert not self._rest, "the stream ended inside an event"
                    return b""
                self.raw += piece
                self._rest += piece
        block, _, self._rest = self._rest.partition(b"\n\n")
        return block

    async def receive(self) -> Json | None:
        """Wait for the next event; None at `[DONE]` and at the end. Comments are passed over."""
        while block := await self.block():
            if block.startswith(b":"):
                continue
            *fields, data = block.split(b"\n")
            assert data.startswith(b"data: "), "clients of the original look for the space"
            assert all(field.startswith(b"id: ") for field in fields)
            if data == b"data: [DONE]":
                self.done = True
                return None
            event: Json = json.loads(data[6:])
            self.events.append(event)
            self.ids.append(fields[0][4:].decode() if fields else None)
            return event
        return None

    async def next(self, *types: str) -> Json:
        """Wait for an event of one of these types, passing over others."""
        while (event := await self.receive()) is not None:
            if event["type"] in types:
                return event
        raise AssertionError(f"the stream ended without {types}")

    async def all(self) -> list[Json]:
        """Read to the end."""
        while await self.receive() is not None:
            pass
        return self.events

    def text(self) -> str:
        """The text of all `token` events so far."""
        return "".join(e["content"] for e in self.events if e["type"] == "token")


@dataclass
class Gateway:
    """A running gateway, as its clients see it; `house` is for the rare look inside."""

    http: httpx.AsyncClient
    house: House
    database: Path

    @asynccontextmanager
    async def tab(
        self, session_id: str | None = None, after: str | None = None, **options: Any
    ) -> AsyncIterator[Tab]:
        """Open a WebSocket and wait for its `ready`."""
        query = {"session_id": session_id, "after": after}
        url = httpx.URL("/ws", params={k: v for k, v in query.items() if v is not None})
        async with aconnect_ws(str(url), self.http, max_message_size_bytes=2**22, **options) as ws:
            with anyio.fail_after(WITHIN_S):
                ready = json.loads(await ws.receive_text())
            yield Tab(ws, ready)

    @asynccontextmanager
    async def sse(self, method: str, path: str, **options: Any) -> AsyncIterator[Sse]:
        """Open an SSE stream; only on sockets, since without them a response comes whole."""
        async with (
            self.http.stream(method, path, **options) as response,
            aclosing(response),
        ):
            yield Sse(response)

    async def exchange(
        self, tab: Tab, model: ScriptedModel, question: str, reply: str, **fields: Any
    ) -> Json:
        """Ask on a tab and let the model reply; return the `complete` event."""
        await tab.chat(question, **fields)
        call = await call_of(model)
        await call.say(reply)
        await call.complete()
        return await tab.next("complete")

    async def messages(self, session_id: str, **query: Any) -> Json:
        """Load a page of the history over REST."""
        page = await self.http.get(f"/api/sessions/{session_id}/messages", params=query)
        assert page.status_code == 200, page.text
        loaded: Json = page.json()
        return loaded

    async def new_session(self) -> str:
        """Create a session over REST."""
        created = await self.http.post("/api/sessions", json={})
        session_id: str = created.json()["session_id"]
        return session_id

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Look into the database file with a connection of our own."""
        with closing(sqlite3.connect(self.database)) as connection:
            return connection.execute(sql, parameters).fetchall()

    def replies(self) -> list[tuple[str, str]]:
        """The finish reasons and texts of all stored replies, by turn."""
        return self.rows(
            "SELECT t.finish_reason, m.content FROM turns t"
            " JOIN messages m ON m.message_id = t.reply_message_id ORDER BY t.session_id, t.turn"
        )


def settings_for(database: Path, llm_server_url: str, **overrides: Any) -> Settings:
    """Settings of a gateway under test, untouched by the environment."""
    return Settings(
        _env_file=None,
        port=0,
        database_url=str(database),
        llm_server_url=llm_server_url,
        **{"llm_cool_down_s": 0, "drain_seconds": 0, **overrides},
    )


def _file(settings: Settings) -> Path:
    """Say which file a gateway keeps; one among many has none."""
    return Path(os.devnull) if settings.shared else settings.database_path


@asynccontextmanager
async def in_process(settings: Settings) -> AsyncIterator[Gateway]:
    """Run a gateway without a server."""
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=ASGIWebSocketTransport(app), base_url="http://127.0.0.1", timeout=WITHIN_S
        ) as http,
    ):
        yield Gateway(http, app.state.house, _file(settings))


@asynccontextmanager
async def on_sockets(settings: Settings) -> AsyncIterator[Gateway]:
    """Run a gateway on a port of 127.0.0.1, in this loop."""
    server = GatewayServer(settings)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve)
        with anyio.fail_after(WITHIN_S):
            await server.listening.wait()
        url = f"http://127.0.0.1:{server.port}"
        async with httpx.AsyncClient(base_url=url, timeout=WITHIN_S, trust_env=False) as http:
            yield Gateway(http, server.app.state.house, _file(settings))
        server.stop()


def new_turn(session_id: str, node: str | None = None) -> NewTurn:
    """Make up a request as a gateway stores it, for a turn that nobody runs."""
    return NewTurn(
        claim=Claim(session_id),
        message="안녕",
        replaces=None,
        request_id=None,
        fingerprint=None,
        generation={
            "max_new_tokens": 16,
            "temperature": 1.0,
            "do_sample": False,
            "streamed": True,
        },
        status="running",
        user_message_id=f"{session_id}-asks",
        reply_message_id=f"{session_id}-replies",
        node=node,
    )
