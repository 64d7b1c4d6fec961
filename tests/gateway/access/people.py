"""Who comes to a gateway that asks for credentials, and what each of them brings."""

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from httpx_ws import AsyncWebSocketSession, WebSocketDisconnect, WebSocketNetworkError, aconnect_ws

from gateway import app
from gateway.auth.api_keys import new_key
from gateway.auth.opening import open_authenticator
from gateway.settings import Settings
from storage import sessions
from tests.gateway.auth.signing import AUDIENCE, ISSUER, SECRET, forged, hs256
from tests.gateway.harness import WITHIN_S, Gateway, Json, Tab, settings_for

ALICE, ALICES = new_key("alice")
BOB, BOBS = new_key("bob")
CAROL, CAROLS = new_key("carol")
UNKNOWN, _ = new_key("alice")

NOBODY = "00000000-0000-4000-8000-000000000000"

KEYS: Mapping[str, Any] = {"api_keys": (ALICES.line, BOBS.line)}
TOKENS: Mapping[str, Any] = {
    "jwt_issuer": ISSUER,
    "jwt_audience": AUDIENCE,
    "jwt_secret": SECRET,
}


def access_settings(directory: Path, llm_server_url: str = "", **overrides: Any) -> Settings:
    """Settings of a gateway that knows Alice and Bob, by keys and by tokens."""
    return settings_for(directory / "chat.db", llm_server_url, **{**KEYS, **TOKENS, **overrides})


def token(subject: str, *, lasts_s: float = 3_600) -> str:
    """Sign a token of somebody's."""
    return hs256(sub=subject, exp=time.time() + lasts_s)


@dataclass(frozen=True)
class Person:
    """Somebody, and the header that is to prove who."""

    name: str
    authorization: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return self.name

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.authorization is None else {"Authorization": self.authorization}

    @property
    def token(self) -> str:
        """What an `auth` frame of theirs holds."""
        return (self.authorization or "").partition(" ")[2] or "nothing-to-show"


def bearing(name: str, credential: str) -> Person:
    return Person(name, f"Bearer {credential}")


ALICE_BY_KEY = bearing("key:alice", ALICE)
BOB_BY_KEY = bearing("key:bob", BOB)
CAROL_BY_KEY = bearing("key:carol", CAROL)
ALICE_BY_TOKEN = bearing("jwt:alice", token("alice"))
BOB_BY_TOKEN = bearing("jwt:bob", token("bob"))
ANONYMOUS = Person("anonymous")

_CLAIMS = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": 2**40}
REFUSED = (
    ANONYMOUS,
    bearing("expired", token("alice", lasts_s=-60)),
    bearing("revoked", CAROL),  # by then: see `revoke`
    bearing("unknown key", UNKNOWN),
    bearing("key cut short", ALICE[:-1]),
    bearing("foreign signature", hs256("another secret of thirty-two bytes and more", exp=2**40)),
    bearing("no signature", forged({"alg": "none"}, _CLAIMS)),
    bearing("nonsense", "nonsense"),
    Person("two words", "Bearer one two"),
    Person("no token", "Bearer"),
    Person("another scheme", "Basic YWxpY2U6YWxpY2U="),
    Person("key alone", ALICE),
)
"""Nobody whom the gateway knows, whatever they bring."""


@asynccontextmanager
async def line(
    gateway: Gateway, *, headers: Mapping[str, str] | None = None, path: str = "/ws", **query: str
) -> AsyncIterator[AsyncWebSocketSession]:
    """Open a WebSocket, and await nothing of it."""
    url = str(httpx.URL(path, params=query))
    socket: AsyncWebSocketSession
    async with aconnect_ws(
        url, gateway.http, headers=dict(headers or {}), max_message_size_bytes=2**22
    ) as socket:
        yield socket


async def told(socket: AsyncWebSocketSession) -> tuple[list[Json], int]:
    """Read the errors that are said until the server closes; return them, and the close code."""
    frames: list[Json] = []
    with anyio.fail_after(WITHIN_S):
        try:
            while True:
                frames.append(json.loads(await socket.receive_text()))
                assert frames[-1]["type"] == "error", frames  # or it would stay open
        except WebSocketDisconnect as closed:
            return frames, closed.code


async def visit(
    gateway: Gateway, person: Person, frame: Json | None = None, **query: str
) -> tuple[list[Json], int]:
    """Connect, say something, and be told until the server closes."""
    async with line(gateway, headers=person.headers, **query) as socket:
        if frame is not None:
            with suppress(WebSocketDisconnect, WebSocketNetworkError):  # it may be closed by now
                await socket.send_text(json.dumps(frame))
        return await told(socket)


async def joined(socket: AsyncWebSocketSession) -> Tab:
    """Wait for `ready`."""
    with anyio.fail_after(WITHIN_S):
        ready = json.loads(await socket.receive_text())
    assert ready["type"] == "ready", ready
    return Tab(socket, ready)


def refusals(frames: list[Json]) -> list[str]:
    """The codes of frames that are all errors without a turn."""
    assert all(frame["type"] == "error" and "id" not in frame for frame in frames), frames
    return [frame["code"] for frame in frames]


UNAUTHORIZED = ["unauthorized"], 4500
NOT_FOUND = ["session_not_found"], 4504


async def outcome(
    gateway: Gateway, person: Person, frame: Json | None = None, **query: str
) -> tuple[list[str], int]:
    """Connect where that is refused: the codes of the errors, and the close code."""
    frames, code = await visit(gateway, person, frame, **query)
    return refusals(frames), code


async def new_session(gateway: Gateway, person: Person) -> str:
    """Create a session of somebody's."""
    created = await gateway.http.post("/api/sessions", headers=person.headers)
    assert created.status_code == 201, created.text
    session_id: str = created.json()["session_id"]
    return session_id


async def ticket(gateway: Gateway, person: Person) -> str:
    """Get a ticket for somebody."""
    issued = await gateway.http.post("/api/tickets", headers=person.headers)
    assert issued.status_code == 201, issued.text
    found: str = issued.json()["ticket"]
    return found


async def stored(gateway: Gateway) -> dict[str, list[tuple[Any, ...]]]:
    """Everything in the database, once all that was to be written is."""
    await gateway.house.database.write(sessions.exists("whatever"))
    names = [name for (name,) in gateway.rows("SELECT name FROM sqlite_master WHERE type='table'")]
    return {name: sorted(gateway.rows(f"SELECT * FROM {name}"), key=repr) for name in names}


def rewrite(file: Path, line: str = "") -> None:
    """Write another key into the file of API keys, or none."""
    file.write_text(line)


async def revoke(gateway: Gateway, person: Person, file: Path) -> None:
    """Take the file's keys back, and wait until somebody's is good for nothing any more."""
    rewrite(file)
    await answered(gateway, person, 401)


async def answered(gateway: Gateway, person: Person, code: int) -> None:
    """Wait until somebody is answered so."""
    with anyio.fail_after(WITHIN_S):
        while await status(gateway, person) != code:
            await anyio.lowlevel.checkpoint()


async def status(gateway: Gateway, person: Person) -> int:
    """How somebody is answered who asks for what anybody with a name may have."""
    return (await gateway.http.get("/api/sessions", headers=person.headers)).status_code


def tell_time(monkeypatch: pytest.MonkeyPatch, clock: Callable[[], float]) -> None:
    """Let gateways that are opened from now on judge credentials by a clock of the test's."""
    monkeypatch.setattr(app, "open_authenticator", partial(open_authenticator, clock=clock))
