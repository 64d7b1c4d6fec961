"""Requests over sockets of their own: hundreds at once, and no pool that would have its own say."""

import json
from dataclasses import dataclass
from typing import Any

import anyio

from tests.gateway.harness import WITHIN_S, Gateway, Json


@dataclass(frozen=True)
class Answer:
    """What came back, whole."""

    status: int
    body: bytes

    def json(self) -> Json:
        """A plain answer."""
        loaded: Json = json.loads(self.body)
        return loaded

    def events(self) -> list[Json]:
        """An SSE answer, which ends as it should."""
        *blocks, done, rest = self.body.split(b"\n\n")
        assert (done, rest) == (b"data: [DONE]", b""), self.body[-200:]
        lines = [line for block in blocks for line in block.split(b"\n")]
        return [json.loads(line[6:]) for line in lines if line.startswith(b"data: ")]


async def request(
    gateway: Gateway, method: str, path: str, body: Any = None, *, within_s: float = WITHIN_S
) -> Answer:
    """Send a request and read the answer to its end."""
    port = gateway.http.base_url.port
    assert port is not None
    data = b"" if body is None else json.dumps(body).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    received = bytearray()
    with anyio.fail_after(within_s):
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(head.encode() + data)
            async for piece in stream:
                received += piece
    return _parsed(bytes(received))


def _parsed(received: bytes) -> Answer:
    head, _, body = received.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head.lower():
        body = _joined(body)
    return Answer(int(head.split(b" ", 2)[1]), body)


def _joined(chunks: bytes) -> bytes:
    body = b""
    while chunks:
        size, _, rest = chunks.partition(b"\r\n")
        length = int(size, 16)
        body += rest[:length]
        chunks = rest[length + 2 :]
    return body
