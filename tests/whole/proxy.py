"""Proxies that stand on a wire between two programs: one cuts it, one writes down what passes."""

import json
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import urlsplit

import anyio
from anyio.abc import SocketAttribute, SocketStream

from tests.llm.scripted import listening

_GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)

Tap = Callable[[bytes], bytes]
"""Sees the bytes that go one way and returns those that go on; raises `Cut`."""


class Cut(Exception):
    """Here the wire breaks; `rest` still gets through."""

    def __init__(self, rest: bytes) -> None:
        self.rest = rest


def reset(raw: socket.socket) -> None:
    """Let the socket's close be a reset: what the peer has not read yet is lost to it."""
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@asynccontextmanager
async def forwarding(url: str, taps: Callable[[], tuple[Tap, Tap]]) -> AsyncIterator[str]:
    """Forward connections to the server at `url`; yield the URL to use in its place.

    `taps` makes a pair for each connection: what the client says, what the server says.
    """
    target = urlsplit(url)
    assert target.hostname
    assert target.port
    host, port = target.hostname, target.port

    async def serve(client: SocketStream) -> None:
        with suppress(OSError):  # the server has gone, and so does the client's connection
            async with client, await anyio.connect_tcp(host, port) as server:
                await _relay(client, server, taps())

    async with listening(serve) as own_port:
        yield f"http://127.0.0.1:{own_port}"


async def _relay(client: SocketStream, server: SocketStream, taps: tuple[Tap, Tap]) -> None:
    async def pass_on(source: SocketStream, target: SocketStream, tap: Tap) -> None:
        try:
            while True:
                await target.send(tap(await source.receive()))
        except Cut as cut:
            with suppress(*_GONE):
                await target.send(cut.rest)
            for end in (client, server):
                with suppress(OSError):  # closed already
                    reset(end.extra(SocketAttribute.raw_socket))
        except _GONE:
            pass
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pass_on, client, server, taps[0])
        tasks.start_soon(pass_on, server, client, taps[1])


@dataclass
class Scissors:
    """Cuts most connections after so many bytes in either direction, as the dice have it."""

    dice: Random
    up_bytes: int = 2_000
    down_bytes: int = 20_000
    cuts: int = 0

    def __call__(self) -> tuple[Tap, Tap]:
        return self._tap(self.up_bytes, 0.2), self._tap(self.down_bytes, 0.6)

    def _tap(self, most: int, chance: float) -> Tap:
        if self.dice.random() >= chance:
            return lambda data: data
        left = self.dice.randint(0, most)

        def count(data: bytes) -> bytes:
            nonlocal left
            if len(data) > left:
                self.cuts += 1
                raise Cut(data[:left])
            left -= len(data)
            return data

        return count


@dataclass
class Call:
    """One HTTP request of a connection of its own, and the answer, byte for byte."""

    sent: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)

    @property
    def path(self) -> str:
        """What was called."""
        return self.sent.split(b" ", 2)[1].decode()

    @property
    def messages(self) -> list[dict[str, str]]:
        """What the model was asked."""
        body: dict[str, Any] = json.loads(self.sent.partition(b"\r\n\r\n")[2])
        messages: list[dict[str, str]] = body["messages"]
        return messages

    @property
    def reply(self) -> str:
        """What the model said, read off the bytes by nothing that the gateway is made of."""
        head, _, body = bytes(self.received).partition(b"\r\n\r\n")
        if self.path == "/chat":
            reply: str = json.loads(body)["response"]
            return reply
        assert b"transfer-encoding: chunked" in head.lower()
        return "".join(_contents(_unchunked(body)))


@dataclass
class Recorder:
    """Writes down every connection that passes."""

    connections: list[Call] = field(default_factory=list)

    def __call__(self) -> tuple[Tap, Tap]:
        call = Call()
        self.connections.append(call)
        return _copying(call.sent), _copying(call.received)

    def calls(self) -> dict[str, list[Call]]:
        """The calls for a reply, by the question that was asked."""
        by_question: dict[str, list[Call]] = {}
        for call in self.connections:
            if call.path.startswith("/chat"):
                by_question.setdefault(call.messages[-1]["content"], []).append(call)
        return by_question


def _copying(copy: bytearray) -> Tap:
    def tap(data: bytes) -> bytes:
        copy.extend(data)
        return data

    return tap


def _unchunked(body: bytes) -> bytes:
    whole = bytearray()
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size or b"0", 16)
        if not length:
            break
        whole += body[:length]
        body = body[length + 2 :]
    return bytes(whole)


def _contents(events: bytes) -> list[str]:
    contents = []
    for event in events.split(b"\n\n"):
        with suppress(json.JSONDecodeError):  # asked for: events that make no sense
            fields = json.loads(event.removeprefix(b"data: "))
            if isinstance(fields, dict) and fields.get("type") == "chunk":
                contents.append(fields["content"])
    return contents
