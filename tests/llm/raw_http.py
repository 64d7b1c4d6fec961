"""A client of the simulator that sees every byte: no HTTP library between it and the socket."""

import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
from anyio.abc import ByteStream

PATIENCE_S = 10


def call(path: str, text: str, **fields: object) -> bytes:
    messages = [{"role": "user", "content": text}]
    body = json.dumps({"messages": messages, **fields}).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: sim\r\ncontent-type: application/json\r\n"
    return head.encode() + b"content-length: %d\r\n\r\n%b" % (len(body), body)


@asynccontextmanager
async def sent(url: str, request: bytes) -> AsyncIterator[ByteStream]:
    host, port = url.removeprefix("http://").split(":")
    with anyio.fail_after(PATIENCE_S):
        async with await anyio.connect_tcp(host, int(port)) as stream:
            await stream.send(request)
            yield stream


async def until(stream: ByteStream, wanted: Callable[[bytes], bool]) -> bytes:
    received = b""
    while not wanted(received):
        received += await stream.receive()
    return received


def is_complete(reply: bytes) -> bool:
    head, separator, body = reply.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head:
        return body.endswith(b"0\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    return bool(separator) and length is not None and len(body) == int(length[1])


async def asked(url: str, request: bytes) -> bytes:
    async with sent(url, request) as stream:
        return await until(stream, is_complete)


async def heard_until_the_end(url: str, request: bytes) -> bytes:
    """Everything that is said before the connection closes."""
    received = bytearray()
    async with sent(url, request) as stream:
        with suppress(anyio.EndOfStream):
            while True:
                received += await stream.receive()
    return bytes(received)


def events(reply: bytes) -> list[Any]:
    return [
        json.loads(line[6:]) for line in reply.splitlines() if line.startswith(b'data: {"type"')
    ]


def contents(reply: bytes) -> list[str]:
    return [event["content"] for event in events(reply) if event["type"] == "chunk"]
