"""Peers of the gateway at the level of bytes: what they do not ask for, they do not read."""

import asyncio
import json
import os
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

import anyio
from anyio.abc import SocketStream

from gateway.listening import PeerLimits
from gateway.server import GatewayServer
from tests.gateway.harness import WITHIN_S, Json, settings_for
from tests.llm.scripted import ScriptedModel, listening

SMALL = 4_096
"""So little room that a socket nobody reads is full almost at once."""

SYLLABLES = "".join(map(chr, range(0xAC00, 0xD7A4)))
PIECE = 50_000
CLOSE, PING, PONG = 8, 9, 10


@lru_cache(maxsize=1)
def noise(chars: int, *, seed: int) -> str:
    """Make up text that nothing on the way can compress."""
    return "".join(random.Random(seed).choices(SYLLABLES, k=chars))


def pieces_of(text: str) -> list[str]:
    """Cut a reply as a model server in a hurry would."""
    return [text[at : at + PIECE] for at in range(0, len(text), PIECE)]


async def until(true: Callable[[], bool]) -> None:
    """Wait until something is so that no event tells of."""
    with anyio.fail_after(WITHIN_S):
        while not true():  # noqa: ASYNC110
            await anyio.sleep(0.005)


class Peer:
    """One TCP connection."""

    def __init__(self, url: str, *, room: int = SMALL) -> None:
        target = urlsplit(url)
        assert target.hostname
        self.host, self.port = target.hostname, target.port
        family = socket.AF_INET6 if ":" in target.hostname else socket.AF_INET
        self._socket = socket.socket(family)
        # Before it connects: later the window has been announced.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        self._socket.setblocking(False)
        self._unread = b""

    async def __aenter__(self) -> Self:
        await asyncio.get_running_loop().sock_connect(self._socket, (self.host, self.port))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._socket.close()

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        with anyio.fail_after(WITHIN_S):
            await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def request(self, method: str, path: str, **headers: str) -> None:
        """Send a request without a body."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}:{self.port}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("".join(f"{line}\r\n" for line in [*lines, ""]).encode())

    async def receive(self, most: int = 65_536) -> bytes:
        """Read some bytes; none at the end, in good order or not."""
        with anyio.fail_after(WITHIN_S):
            try:
                return await asyncio.get_running_loop().sock_recv(self._socket, most)
            except ConnectionResetError:
                return b""

    def close_sending(self) -> None:
        """Say that nothing more will be said, and go on reading."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    async def rest(self) -> bytes:
        """Read until the connection is closed."""
        read = self._unread
        while data := await self.receive():
            read += data
        return read

    async def until(self, end: bytes) -> bytes:
        """Read up to some bytes, and take them too."""
        while end not in self._unread:
            data = await self.receive()
            assert data, f"closed before {end!r}: {self._unread[-200:]!r}"
            self._unread += data
        head, _, self._unread = self._unread.partition(end)
        return head + end

    # WebSocket frames (RFC 6455, section 5.2), their mask all zeros

    async def open(self, **query: str) -> Json:
        """Become a WebSocket; return `ready`."""
        await self.request(
            "GET",
            f"/ws?{urlencode(query)}",
            Connection="Upgrade",
            Upgrade="websocket",
            Sec_WebSocket_Version="13",
            Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
        )
        assert b" 101 " in await self.until(b"\r\n\r\n")
        return await self.frame()

    async def say(self, opcode: int, payload: bytes = b"") -> None:
        """Send a short frame."""
        await self.send(bytes((0x80 | opcode, 0x80 | len(payload), 0, 0, 0, 0)) + payload)

    async def raw_frame(self) -> tuple[int, bytes]:
        """Read a frame; return its opcode and payload."""
        opcode, length = await self._take(2)
        if length > 125:
            length = int.from_bytes(await self._take(2 if length == 126 else 8), "big")
        return opcode & 0x0F, await self._take(length)

    async def frame(self) -> Json:
        """Read a JSON frame, answering pings before it; `code` alone if it is a close frame."""
        while True:
            opcode, payload = await self.raw_frame()
            if opcode == PING:
                await self.say(PONG, payload)
            elif opcode == CLOSE:
                return {"type": "close", "code": int.from_bytes(payload[:2], "big")}
            elif opcode != PONG:
                frame: Json = json.loads(payload)
                return frame

    async def _take(self, size: int) -> bytes:
        while len(self._unread) < size:
            data = await self.receive()
            assert data, "closed inside a frame"
            self._unread += data
        taken, self._unread = self._unread[:size], self._unread[size:]
        return taken


class Served:
    """A gateway on a port of 127.0.0.1, in this loop, whose connections can be looked at."""

    def __init__(self, server: GatewayServer, model: ScriptedModel) -> None:
        self.server = server
        self.model = model
        self.url = f"http://127.0.0.1:{server.port}"

    @property
    def connections(self) -> list[Any]:
        """The protocols of all open connections."""
        return list(self.server.server_state.connections)

    async def all_gone(self) -> None:
        """Wait until there is no connection left."""
        await until(lambda: not self.server.server_state.connections)

    async def answer(self, session_id: str, message: str = "hi") -> None:
        """Ask over REST, in a connection of its own, and leave."""
        body = json.dumps({"session_id": session_id, "message": message}).encode()
        async with Peer(self.url) as peer:
            size = str(len(body))
            await peer.request("POST", "/api/chat", Content_Length=size, Connection="close")
            await peer.send(body)
            assert b" 200 " in await peer.until(b"\r\n")
            await peer.rest()


@asynccontextmanager
async def serving(directory: Path, limits: PeerLimits, **overrides: Any) -> AsyncIterator[Served]:
    """Run a gateway with these limits for its peers, and a model that says what it is told to."""
    async with ScriptedModel() as model, anyio.create_task_group() as tasks:
        settings = settings_for(directory / "chat.db", model.url, **overrides)
        server = GatewayServer(settings, limits)
        tasks.start_soon(server.serve)
        with anyio.fail_after(WITHIN_S):
            await server.listening.wait()
        yield Served(server, model)
        with anyio.fail_after(WITHIN_S):
            if server._drain is None:  # told a second time, it would end the process
                server.stop()
            await until(lambda: not server.server_state.connections)


@asynccontextmanager
async def half_open(url: str) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """Stand between a peer and the gateway; once told to, let nothing pass and close nothing."""
    target = urlsplit(url)
    assert target.hostname
    assert target.port
    host, port = target.hostname, target.port
    cables: list[anyio.CancelScope] = []

    async def carry(source: SocketStream, sink: SocketStream) -> None:
        with anyio.CancelScope() as cable:
            cables.append(cable)
            async for data in source:
                await sink.send(data)
            return
        await anyio.sleep_forever()  # the cable is cut; both ends still lie there

    async def serve(near: SocketStream) -> None:
        async with (
            near,
            await anyio.connect_tcp(host, port) as far,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(carry, near, far)
            tasks.start_soon(carry, far, near)

    def cut() -> None:
        for cable in cables:
            cable.cancel()

    async with listening(serve) as own_port:
        yield f"http://127.0.0.1:{own_port}", cut


def resident_mb(pid: int | None = None) -> float:
    """Look up how much memory a process really has."""
    status = Path(f"/proc/{pid or os.getpid()}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024
