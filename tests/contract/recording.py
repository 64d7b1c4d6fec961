"""All that a gateway says in a long conversation, on every transport: the frames of every type.

The gateway is the program itself, with its simulated model; what it says is kept as it came.
"""

import asyncio
import json
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.whole.processes import WITHIN_S, Program, gateway

Json = dict[str, Any]

QUICK = "#sim pieces=5 interval_ms=0 first_token_ms=0#"
SILENT = "#sim pieces=9 interval_ms=60000 first_token_ms=0#"
FAILS = "#sim error_at=2 interval_ms=0 first_token_ms=0#"

SENT: tuple[Json, ...] = (
    {"type": "help"},
    {"type": "ping", "request_id": "p1"},
    {"type": "auth", "token": "nobody-asks-for-it"},
    {"type": "chat", "message": f"안녕 {QUICK}", "request_id": "r1", "temperature": 0.5},
    {"type": "chat", "message": f"안녕 {QUICK}", "request_id": "r1", "temperature": 0.5},
    {"type": "regenerate", "turn": 1, "request_id": "r2", "max_new_tokens": 3},
    {"type": "chat", "message": f"hello {FAILS}", "replaces": 2},
    {"type": "chat", "message": f"wait {SILENT}"},
    {"type": "chat", "message": "too early", "request_id": "r3"},
    {"type": "cancel", "turn": 4},
    {"type": "history", "limit": 3, "request_id": "h1"},
    {"type": "nonsense"},
)
ENDS = {"complete", "error", "pong", "help", "history"}


@dataclass
class Recording:
    """What was sent and what came back, in order, by transport."""

    sent: list[Json] = field(default_factory=list)
    websocket: list[Json] = field(default_factory=list)
    session_events: list[Json] = field(default_factory=list)
    turn_events: list[Json] = field(default_factory=list)
    bodies: dict[str, list[Json]] = field(default_factory=dict)

    @property
    def frames(self) -> list[Json]:
        """Everything that the gateway said as a frame."""
        return self.websocket + self.session_events + self.turn_events

    def keep(self, model: str, response: httpx.Response) -> Json:
        """Keep the body of a reply, under the model that it should be of."""
        body: Json = response.json()
        self.bodies.setdefault(model, []).append(body)
        return body


def record(directory: Path) -> Recording:
    """Have the conversation."""
    return asyncio.run(_recorded(directory))


async def _recorded(directory: Path) -> Recording:
    kept = Recording()
    settings = {"LLM_MAX_CONCURRENCY": "1", "HEARTBEAT_S": "1", "DRAIN_SECONDS": "1"}
    async with (
        asyncio.timeout(2 * WITHIN_S),
        gateway(directory, **settings) as program,
        httpx.AsyncClient(base_url=program.url, trust_env=False, timeout=WITHIN_S) as http,
    ):
        session_id = await _over_rest(http, kept)
        await _over_websocket(program, session_id, kept)
        await _in_a_queue(program, http, kept)
        await _until_the_end(program, session_id, kept)
    return kept


async def _over_rest(http: httpx.AsyncClient, kept: Recording) -> str:
    session = kept.keep("Session", await http.post("/api/sessions", json={"metadata": {"a": [1]}}))
    session_id: str = session["session_id"]
    one = f"/api/sessions/{session_id}"
    asks = {"session_id": session_id, "message": f"hi {QUICK}"}
    other = kept.keep("Session", await http.post("/api/sessions"))["session_id"]
    kept.keep("ChatReply", await http.post("/api/chat", json={**asks, "session_id": other}))
    for body in ({**asks, "session_id": other}, {"session_id": other, "message": f"no {FAILS}"}):
        streamed = await http.post("/api/chat/stream", json=body)
        kept.turn_events += [json.loads(data) for data in _data(streamed.text) if data != "[DONE]"]
    kept.keep("Session", await http.get(one))
    kept.keep("SessionList", await http.get("/api/sessions"))
    kept.keep("Messages", await http.get(f"/api/sessions/{other}/messages"))
    kept.keep("Messages", await http.get(f"/api/sessions/{other}/messages?include=replaced"))
    kept.keep("TicketReply", await http.post("/api/tickets"))
    kept.keep("Health", await http.get("/api/health"))
    kept.keep("Readiness", await http.get("/readyz"))
    for refused in (
        await http.get("/api/sessions/nobody"),
        await http.post("/api/chat", json={}),
        await http.post("/api/chat", json={"session_id": other, "message": FAILS}),
        await http.post(f"{one}/cancel"),
        await http.get("/nowhere"),
        await http.put("/api/chat"),
    ):
        kept.keep("Problem", refused)
    async with http.stream("GET", f"/api/sessions/{other}/events?after=0.0.end") as events:
        async for line in events.aiter_lines():
            kept.session_events += [json.loads(data) for data in _data(line)]
            if kept.session_events and kept.session_events[-1].get("id") == "3.1.end":
                break
    return session_id


def _data(text: str) -> list[str]:
    lines = text.splitlines()
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


def _socket(program: Program, session_id: str = "") -> connect:
    query = f"?session_id={session_id}" if session_id else ""
    url = f"{program.url.replace('http', 'ws', 1)}/ws{query}"
    return connect(url, proxy=None, compression=None)


async def _hear(socket: ClientConnection, kept: Recording) -> Json:
    frame: Json = json.loads(await socket.recv())
    kept.websocket.append(frame)
    return frame


async def _until(socket: ClientConnection, kept: Recording, *kinds: str) -> Json:
    while (frame := await _hear(socket, kept))["type"] not in kinds:
        pass
    return frame


async def _over_websocket(program: Program, session_id: str, kept: Recording) -> None:
    async with _socket(program, session_id) as socket:
        await _until(socket, kept, "ready")
        for frame in SENT:
            kept.sent.append(frame)
            await socket.send(json.dumps(frame))
            if frame["type"] == "auth":
                continue
            awaited = {"token"} if SILENT in frame.get("message", "") else ENDS
            awaited = {"accepted"} if frame is SENT[4] else awaited
            await _until(socket, kept, *awaited)
        await _until(socket, kept, "ping")


async def _in_a_queue(program: Program, http: httpx.AsyncClient, kept: Recording) -> None:
    async with _socket(program) as first, _socket(program) as second:
        await first.send(f"talk {SILENT}")
        await _until(first, kept, "token")
        await second.send(f"then me {QUICK}")
        await _until(second, kept, "queued")
        session_id = kept.websocket[-1].get("session_id") or _session_of(kept)
        joined = await http.get(f"/api/sessions/{session_id}/messages")
        kept.keep("Messages", joined)
        async with _socket(program, session_id) as third:
            await _until(third, kept, "ready")
        kept.keep("Cancelled", await http.post(f"/api/sessions/{session_id}/cancel", json={}))
        await _until(second, kept, "complete")
        await first.send("/cancel")
        await _until(first, kept, "complete")


def _session_of(kept: Recording) -> str:
    ready = [frame for frame in kept.websocket if frame["type"] == "ready"]
    session_id: str = ready[-1]["session_id"]
    return session_id


async def _until_the_end(program: Program, session_id: str, kept: Recording) -> None:
    async with _socket(program, session_id) as socket:
        await _until(socket, kept, "ready")
        program.send(signal.SIGTERM)
        try:
            while True:
                await _hear(socket, kept)
        except ConnectionClosed:
            pass
    assert await program.ended() == 0
