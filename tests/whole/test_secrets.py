"""What a gateway was told in confidence is found nowhere that others can read.

A gateway is driven through every transport, well and badly, with secrets that can be searched for;
then all that it wrote, and all that it said to others, is searched for them.
"""

import asyncio
import base64
import hashlib
import json
import secrets
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx
import jwt
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from gateway.auth.api_keys import new_key
from gateway.settings import BadSettings, load_settings
from tests.servers.postgres import sql
from tests.servers.redis import redis_server
from tests.whole.clients import Json
from tests.whole.processes import MODULE, WITHIN_S, Program, gateway, running, simulator

QUICK = "#sim pieces=3 interval_ms=0 first_token_ms=0"
ISSUER, AUDIENCE = "https://id.example.org/", "chat"


def canary(what: str) -> str:
    """Make up what occurs nowhere by chance."""
    return f"{what}-{secrets.token_hex(12)}"


class Cage:
    """The secrets of one test, by what they are."""

    def __init__(self) -> None:
        self.jwt_secret = canary("jwt-secret")
        self.key, kept = new_key("alice")
        self.bobs_key, bobs = new_key("bob")
        self.unknown_key, _ = new_key("alice")
        self.lines = f"{kept.line},{bobs.line}"
        self.token = self._token(self.jwt_secret)
        self.bad_token = self._token(canary("another-secret"))
        self.message = canary("message")
        self.metadata = canary("metadata")
        self.request_id = canary("request")
        self.password = canary("model")
        self.database_password = canary("database")
        self.broker_password = canary("broker")
        self.tickets: list[str] = []

    @property
    def credentials(self) -> list[str]:
        """All that opens the gateway, or looks like it."""
        return [self.key, self.token, self.unknown_key, self.bad_token]

    def found_in(self, text: str) -> set[str]:
        """Say which of the secrets occur in a text, in any of their spellings."""
        return {what for what, spelling in self._spellings() if spelling in text}

    def _spellings(self) -> Iterator[tuple[str, str]]:
        for what, secret in self._secrets():
            yield what, secret
            yield f"{what}, its digest", hashlib.sha256(secret.encode()).hexdigest()
            yield f"{what}, in base64", base64.b64encode(secret.encode()).decode().rstrip("=")[:-1]
        for what, token in (("token", self.token), ("bad token", self.bad_token)):
            for number, part in enumerate(token.split(".")[1:]):  # many share their header
                yield f"{what}, part {number}", part
        for what, key in (("key", self.key), ("unknown key", self.unknown_key)):
            yield f"{what}, its secret", key[len("midm_12345678_") :]

    def _secrets(self) -> Iterator[tuple[str, str]]:
        for name, value in vars(self).items():
            if name not in ("tickets", "lines"):
                yield name, value
        for ticket in self.tickets:
            yield "ticket", ticket

    def _token(self, secret: str) -> str:
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": time.time() + 600}
        return jwt.encode(claims | {"jti": canary("id")}, secret, "HS256")


@dataclass
class Driver:
    """Uses a gateway as its owner does, as others do, and as nobody should."""

    program: Program
    cage: Cage
    http: httpx.AsyncClient
    said_to_others: list[str]

    # Its owner

    async def session(self) -> str:
        """Begin a session with metadata that are nobody's business."""
        created = await self.owner("POST", "/api/sessions", {"metadata": {"a": self.cage.metadata}})
        assert created.json()["metadata"] == {"a": self.cage.metadata}
        session_id: str = created.json()["session_id"]
        return session_id

    async def owner(self, method: str, path: str, body: Any = None) -> httpx.Response:
        return await self.http.request(
            method, path, json=body, headers={"Authorization": f"Bearer {self.cage.key}"}
        )

    async def ask(self, session_id: str, suffix: str = QUICK, path: str = "/api/chat") -> str:
        """Ask over REST, well or badly; return the code, or the finish reason."""
        message = f"{self.cage.message} {suffix}#"
        body = {"session_id": session_id, "message": message, "request_id": canary("r")}
        answer = await self.owner("POST", path, body)
        if answer.headers["content-type"].startswith("text/event-stream"):
            return "streamed"
        problem = answer.json()
        return str(problem.get("code") or problem["finish_reason"])

    async def ticket(self) -> str:
        ticket: str = (await self.owner("POST", "/api/tickets")).json()["ticket"]
        self.cage.tickets.append(ticket)
        return ticket

    def socket(self, **options: Any) -> connect:
        query = httpx.QueryParams(options.pop("query", {}))
        path = options.pop("path", "/ws")
        url = f"{self.program.url.replace('http', 'ws', 1)}{path}?{query}"
        return connect(url, proxy=None, compression=None, **options)

    async def talk(self, socket: ClientConnection, suffix: str = QUICK) -> Json:
        """Chat on a WebSocket until the turn is over."""
        frame = {"type": "chat", "message": f"{self.cage.message} {suffix}#"}
        await socket.send(json.dumps(frame | {"request_id": self.cage.request_id}))
        return await heard(socket, "complete", "error")

    # Somebody else

    async def other(self, method: str, path: str, body: Any = None, **headers: str) -> None:
        """Ask as somebody else, and keep the answer."""
        answer = await self.http.request(
            method, path, json=body, headers=headers or {"Authorization": f"Bearer {self.bob}"}
        )
        self.said_to_others.append(f"{answer.headers} {answer.text}")

    async def other_socket(self, *frames: str, **options: Any) -> None:
        """Connect as somebody else, say something, and keep all that is said."""
        with suppress(ConnectionClosed, InvalidStatus):
            async with self.socket(**options) as socket:
                assert socket.response is not None
                self.said_to_others.append(str(socket.response.headers))
                for frame in frames:
                    await socket.send(frame)
                async with asyncio.timeout(WITHIN_S):
                    async for text in socket:
                        self.said_to_others.append(str(text))

    @property
    def bob(self) -> str:
        return self.cage.bobs_key


async def heard(socket: ClientConnection, *kinds: str) -> Json:
    """Wait for a frame of some type."""
    async with asyncio.timeout(WITHIN_S):
        while (frame := json.loads(await socket.recv()))["type"] not in kinds:
            pass
    found: Json = frame
    return found


async def raw(url: str, *lines: str) -> str:
    """Send lines of a request as they are; return what comes back."""
    target = urlsplit(url)
    reader, writer = await asyncio.open_connection(target.hostname, target.port)
    writer.write("".join(f"{line}\r\n" for line in lines).encode("latin-1") + b"\r\n")
    async with asyncio.timeout(WITHIN_S):
        with suppress(ConnectionResetError):
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            return answer.decode("latin-1")
    return ""


# What is done


async def go_well(drive: Driver, session_id: str) -> None:
    """Use every transport, and every way to say who one is."""
    cage = drive.cage
    assert await drive.ask(session_id) == "stop"
    assert await drive.ask(session_id, path="/api/chat/stream") == "streamed"
    by_token = {"Authorization": f"Bearer {cage.token}"}
    by_subprotocol = [Subprotocol("midm.chat.v1"), Subprotocol(f"bearer.{cage.token}")]
    for options in (
        {"additional_headers": by_token},
        {"subprotocols": by_subprotocol},
        {"query": {"ticket": await drive.ticket()}},
    ):
        async with drive.socket(**options) as socket:
            await heard(socket, "ready")
            assert (await drive.talk(socket))["type"] == "complete"
    async with drive.socket() as socket:
        await socket.send(json.dumps({"type": "auth", "token": cage.token}))
        await heard(socket, "ready")
        await socket.send(json.dumps({"type": "auth", "token": cage.token}))
        assert (await drive.talk(socket))["type"] == "complete"
    path = f"/api/sessions/{session_id}/events"
    ticket = await drive.ticket()
    async with drive.http.stream("GET", path, params={"ticket": ticket}) as events:
        assert events.status_code == 200
    assert cage.message in (await drive.owner("GET", f"/api/sessions/{session_id}/messages")).text


async def fail(drive: Driver, session_id: str) -> None:
    """Let the model server fail in every way."""
    faults = {
        f"{QUICK} status=500": "upstream_error",
        f"{QUICK} status=503": "upstream_unavailable",
        f"{QUICK} error_at=1": "upstream_error",
        f"{QUICK} cut_at=1": "upstream_unavailable",
        f"{QUICK} end_at=1": "upstream_error",
    }
    for fault, code in faults.items():
        assert (fault, await drive.ask(session_id, fault)) == (fault, code)
        assert await drive.ask(session_id, fault, path="/api/chat/stream") == "streamed"


async def fail_quoting(drive: Driver, session_id: str) -> None:
    """Let the model server fail, and quote what it was asked, as FastAPI does with a status 422."""
    quoted = drive.cage.message
    assert await drive.ask(session_id, f"#sim {quoted}=1") == "upstream_error"
    fault = f'{QUICK} error_at=1 message="{quoted}"'
    assert await drive.ask(session_id, fault, path="/api/chat/stream") == "streamed"


async def err(drive: Driver) -> None:
    """Do wrong what can be done wrong, with secrets in it."""
    cage = drive.cage
    for secret in (*cage.credentials, *cage.tickets):
        for authorization in (
            f"Bearer {secret} {secret}",
            f"Bearer  {secret}!",
            f"Basic {secret}",
            secret,
            f"Bearer {cage.bad_token}",
            f"Bearer {cage.unknown_key}",
        ):
            await drive.other("GET", "/api/sessions", Authorization=authorization)
            await drive.other_socket(additional_headers={"Authorization": authorization})
        for name in ("ticket", "token", "access_token", "api_key", "after", "session_id"):
            await drive.other("GET", f"/api/sessions?{name}={secret}", Cookie=f"{name}={secret}")
            await drive.other_socket("/ping", query={name: secret})
        await drive.other_socket(path=f"/ws/{secret}")
        await drive.other_socket(subprotocols=[Subprotocol(f"bearer.{secret[:-1]}")])
        await drive.other_socket(origin=f"https://{secret[:8]}.example", query={"ticket": secret})
        for frame in (
            {"type": "auth", "token": secret + "x"},
            {"type": "auth", "token": [secret]},
            {"type": secret},
            {"type": "chat", "message": secret, secret: 1},
        ):
            await drive.other_socket(json.dumps(frame))
        for text in (f'{{"type": "auth", "token": "{secret}', f"/{secret}", secret):
            await drive.other_socket(text)
        for path in (f"/{secret}", f"/api/sessions/{secret}", f"/api/sessions/{secret}/events"):
            for method in ("GET", "POST", "PUT"):
                await drive.other(method, path, Cookie=secret)
        for lines in (
            (f"GET /{secret} HTTP/9.9", "Host: a"),
            (f"{secret} / HTTP/1.1", "Host: a"),
            ("GET / HTTP/1.1", f"Host: {secret}", "Connection: close"),
            ("GET / HTTP/1.1", f"Authorization: Bearer {secret}\0", f"{secret}"),
            ("POST /api/chat HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {secret}"),
            ("GET /ws HTTP/1.1", "Host: 127.0.0.1", "Upgrade: websocket", f"X: {secret}\1"),
        ):
            await raw(drive.program.url, *lines)


async def err_by_oneself(drive: Driver, session_id: str) -> None:
    """Let the owner do wrong what it may be told of, and the log may not."""
    cage = drive.cage
    headers = {"Authorization": f"Bearer {cage.key}"}
    bad: Sequence[Any] = (
        {"session_id": session_id, "message": cage.message, "temperature": cage.message},
        {"session_id": cage.message, "message": [cage.message]},
        {"session_id": session_id, "message": cage.message * 2_000},
        {"metadata": cage.message},
        cage.message,
    )
    for body in bad:
        for path in ("/api/chat", "/api/chat/stream", "/api/sessions"):
            await drive.owner("POST", path, body)
    cut = f'{{"message": "{cage.message}'
    await drive.http.post("/api/chat", content=cut, headers=headers)
    async with drive.socket(additional_headers=headers, query={"session_id": session_id}) as socket:
        await heard(socket, "ready")
        for frame in (
            {"type": "chat", "message": [cage.message]},
            {"type": "history", "before": cage.message},
            {"type": "regenerate", "turn": cage.message},
            {"type": cage.message},
            {"type": "auth", "token": cage.bad_token},
            {"type": "auth", "token": [cage.token]},
        ):
            await socket.send(json.dumps(frame))
            await heard(socket, "error")
        await socket.send(cut)
        await heard(socket, "error")


async def pry(drive: Driver, session_id: str) -> None:
    """Try as somebody else to get at a session."""
    path = f"/api/sessions/{session_id}"
    asks = {"session_id": session_id, "message": "hi"}
    by_bob = {"Authorization": f"Bearer {drive.bob}"}
    for headers in (by_bob, {"X-Nobody": "1"}):
        for tail in (
            "",
            "/messages",
            "/messages?include=replaced",
            "/events",
            "/events?after=1",
        ):
            await drive.other("GET", path + tail, **headers)
        await drive.other("POST", f"{path}/cancel", {}, **headers)
        await drive.other("POST", "/api/chat", asks, **headers)
        await drive.other("POST", "/api/chat/stream", asks, **headers)
        await drive.other("DELETE", path, **headers)
        await drive.other("GET", f"/api/sessions?before={session_id}", **headers)
        await drive.other("GET", "/api/sessions", **headers)
        await drive.other_socket(
            "/history", additional_headers=headers, query={"session_id": session_id}
        )
    described = ("/docs", "/openapi.json", "/asyncapi.json")
    for public in ("/", "/api/health", "/livez", "/readyz", "/metrics", *described):
        await drive.other("GET", public, **{"X-Nobody": "1"})


async def everything(drive: Driver, fail_storage: "Trouble") -> str:
    """Do all of it; return the session that it was about."""
    session_id = await drive.session()
    await go_well(drive, session_id)
    await fail(drive, session_id)
    await err(drive)
    await err_by_oneself(drive, session_id)
    fail_storage.begin()
    assert await drive.ask(session_id) == "storage_error"
    await pry(drive, session_id)
    fail_storage.end()
    await pry(drive, session_id)
    return session_id


async def stop_amid(drive: Driver, session_id: str) -> None:
    """Tell it to stop while a turn of a session runs."""
    headers = {"Authorization": f"Bearer {drive.cage.key}"}
    async with drive.socket(additional_headers=headers, query={"session_id": session_id}) as socket:
        await heard(socket, "ready")
        await socket.send(f"{drive.cage.message} #sim stall_at=2 interval_ms=0 first_token_ms=0#")
        await heard(socket, "token")
        assert await drive.program.stop(signal.SIGTERM) == 0


# The databases


class Trouble(Protocol):
    """A database that will not store a message, and says why."""

    def begin(self) -> None: ...

    def end(self) -> None: ...


@dataclass
class SqliteTrouble:
    file: Path

    def begin(self) -> None:
        self._run(
            "CREATE TRIGGER trouble BEFORE INSERT ON messages BEGIN SELECT RAISE(ABORT, 'no'); END"
        )

    def end(self) -> None:
        self._run("DROP TRIGGER trouble")

    def _run(self, statement: str) -> None:
        with closing(sqlite3.connect(self.file, timeout=WITHIN_S)) as connection:
            connection.execute(statement)
            connection.commit()


@dataclass
class PostgresTrouble:
    url: str

    def begin(self) -> None:
        # Its error quotes the whole row.
        sql(self.url, "ALTER TABLE messages ADD CONSTRAINT trouble CHECK (content = '') NOT VALID")

    def end(self) -> None:
        sql(self.url, "ALTER TABLE messages DROP CONSTRAINT trouble")


@pytest.fixture
def cage() -> Cage:
    return Cage()


@pytest.fixture
async def model(tmp_path: Path, cage: Cage) -> AsyncIterator[str]:
    """The URL of a model server behind a password."""
    async with simulator(tmp_path, interval_ms=0) as program:
        yield program.url.replace("http://", f"http://gateway:{cage.password}@")


@asynccontextmanager
async def driving(directory: Path, cage: Cage, **settings: str) -> AsyncIterator[Driver]:
    """Run a gateway that says as much as it ever does."""
    settings |= {
        "DEBUG": "true",
        "DRAIN_SECONDS": "0",
        "API_KEYS": cage.lines,
        "JWT_SECRET": cage.jwt_secret,
        "JWT_ISSUER": ISSUER,
        "JWT_AUDIENCE": AUDIENCE,
        "AUTH_TIMEOUT_S": "0.05",
        "MESSAGES_PER_MINUTE": "0",
        "SESSIONS_PER_MINUTE": "0",
    }
    async with (
        gateway(directory, **settings) as program,
        httpx.AsyncClient(base_url=program.url, trust_env=False, timeout=WITHIN_S) as http,
    ):
        yield Driver(program, cage, http, [])


def check(drive: Driver) -> None:
    """Whatever the gateway wrote or said to others holds none of the secrets."""
    wrote = drive.program.out + drive.program.err
    for sign in ("a token was refused", "the model server reports an error", "a write failed"):
        assert any(sign in line for line in wrote), "it was not driven hard enough"
    assert len(drive.said_to_others) > 300
    assert escaped(drive.cage, wrote) == escaped(drive.cage, drive.said_to_others) == []


def escaped(cage: Cage, texts: list[str]) -> list[str]:
    """Find the texts that hold a secret."""
    return [text for text in texts if cage.found_in(text)]


def test_a_cage_finds_what_got_out(cage: Cage) -> None:
    digest = hashlib.sha256(cage.key.encode()).hexdigest()
    assert cage.found_in(f"so {cage.key[-30:]}") == set()
    assert cage.found_in(f"so {digest} and {cage.message}") == {"key, its digest", "message"}
    assert "token, part 0" in cage.found_in(cage.token.split(".")[1])


async def test_one_gateway_keeps_its_secrets(tmp_path: Path, cage: Cage, model: str) -> None:
    trouble = SqliteTrouble(tmp_path / "chat.db")
    async with driving(tmp_path, cage, LLM_SERVER_URL=model) as drive:
        await stop_amid(drive, await everything(drive, trouble))
    check(drive)


async def test_one_of_many_gateways_keeps_its_secrets(
    tmp_path: Path, cage: Cage, model: str, postgres_url: str
) -> None:
    with redis_server(password=cage.broker_password) as redis:
        settings = {
            "LLM_SERVER_URL": model,
            "DATABASE_URL": with_password(postgres_url, cage.database_password),
            "BROKER_URL": redis.url,
        }
        async with driving(tmp_path, cage, **settings) as drive:
            session_id = await everything(drive, PostgresTrouble(postgres_url))
            redis.kill()
            assert await drive.ask(session_id) == "storage_error"
            await pry(drive, session_id)
            assert await drive.program.stop(signal.SIGTERM) == 0
    check(drive)


def with_password(url: str, password: str) -> str:
    """Put a password into a URL of a server that asks for none."""
    target = urlsplit(url)
    place = target.netloc.rpartition("@")[2]
    return target._replace(netloc=f"{target.username}:{password}@{place}").geturl()


async def test_what_a_model_server_quotes_of_a_message_is_not_logged(
    tmp_path: Path, cage: Cage, model: str
) -> None:
    async with driving(tmp_path, cage, LLM_SERVER_URL=model) as drive:
        await fail_quoting(drive, await drive.session())
        assert await drive.program.stop() == 0
    assert escaped(cage, drive.program.out + drive.program.err) == []


async def test_settings_that_are_refused_are_not_shown(
    tmp_path: Path, cage: Cage, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = cage.password
    postgres = f"postgresql://user:{password}@127.0.0.1"
    issuer = {"JWT_ISSUER": ISSUER, "JWT_AUDIENCE": AUDIENCE}
    refused = (
        {"JWT_SECRET": cage.jwt_secret},
        {"JWT_SECRET": cage.jwt_secret, "JWT_JWKS_URL": "https://a", **issuer},
        {"JWT_JWKS_URL": f"https://user:{password}@", **issuer},
        {"API_KEYS": f"{cage.key},{cage.key}"},
        {"API_KEYS": f"{cage.lines},{cage.lines}"},
        {"DATABASE_URL": f"mysql://user:{password}@127.0.0.1/chat"},
        {"DATABASE_URL": f"postgresql+asyncpg://user:{password}@127.0.0.1/chat"},
        {"DATABASE_URL": f"{postgres}:1/chat"},
        {"DATABASE_URL": f"{postgres}:1/chat", "BROKER_URL": f"redis://:{password}@127.0.0.1:x"},
        {"DATABASE_URL": f"{postgres}:1/chat", "BROKER_URL": f"amqp://a:{password}@127.0.0.1"},
        {"LLM_SERVER_URL": f"ftp://user:{password}@127.0.0.1"},
        {"LLM_SERVER_URL": f"user:{password}@127.0.0.1:8000"},
        {"LLM_SERVER_URL": f"http://user:{password}@127.0.0.1:1,user:{password}@127.0.0.1:2"},
        {"LLM_SERVER_URL": f"http://user:{password}@127.0.0.1:1,http://127.0.0.1:1"},
        {"LLM_API_KEY": f"{password} {password}"},
        {"LLM_API_KEY": password, "LLM_SERVER_URL": f"http://user:{password}@127.0.0.1"},
    )
    monkeypatch.chdir(tmp_path)
    for settings in refused:
        with monkeypatch.context() as environment:
            for name, value in settings.items():
                environment.setenv(name, value)
            with pytest.raises(BadSettings) as error:
                load_settings()
        assert (settings, cage.found_in(str(error.value))) == (settings, set())
    async with running(*MODULE, directory=tmp_path, **settings) as program:
        assert await program.ended() == 2
    assert cage.found_in("\n".join(program.out + program.err)) == set()
