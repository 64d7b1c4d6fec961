"""A model server that says what a test tells it to, on midm's exact wire and a real socket.

    async with ScriptedModel() as model:
        ...                                  # something asks model.url for a stream
        call = await model.call()
        await call.say("안녕 ")
        await call.complete()

Bytes, spacing, escaping and the order of headers are those recorded in `tests/wire/midm`. No wait
in here has a limit of its own: a test that could hang is inside `anyio.fail_after`.
"""

import json
import math
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from email.utils import formatdate
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

HEALTH = (
    b'{"status":"healthy","model_loaded":true,"embedding_model_loaded":true,'
    b'"embedding_dimensions":768,"device":"cpu","cuda_available":false}'
)
USAGE = {"prompt_tokens": 74, "completion_tokens": 6, "total_tokens": 80}

Messages = list[dict[str, str]]
_PHRASES = {200: "OK", 404: "Not Found", 422: "Unprocessable Entity", 500: "Internal Server Error"}
_GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError)


def event(fields: dict[str, Any], *, ascii_only: bool = False) -> bytes:
    """One event as midm writes it: raw UTF-8, but `start` and `error` escaped to ASCII."""
    return b"data: " + json.dumps(fields, ensure_ascii=ascii_only).encode() + b"\n\n"


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; without data the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)


@asynccontextmanager
async def listening(serve: Callable[[SocketStream], Awaitable[None]]) -> AsyncIterator[int]:
    """Serve connections on a port of 127.0.0.1, each in a task that ends with the block."""
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0) as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, serve)
        yield listener.extra(SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


class Call:
    """One request that the model server has received and not answered yet.

    Writing to a client that has gone away is no error: midm generates on, too.
    """

    def __init__(
        self,
        stream: SocketStream,
        *,
        path: str,
        body: Any,
        closes: bool,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.path = path
        self.headers = headers or {}
        """By their names in small letters."""
        self.body = body
        self.messages: Messages = (body or {}).get("messages", [])
        self.text = ""
        self.pieces = 0
        self.answered = anyio.Event()
        self._stream = stream
        self._closes = closes
        self._started = False

    # A stream

    async def start(self) -> None:
        """Send the head of a stream and its `start` event; all below do it when it is due."""
        await self._write(self._open())

    async def say(self, *pieces: str) -> None:
        """Send each piece as a `chunk` event in a write of its own."""
        for piece in pieces:
            self.text += piece
            self.pieces += 1
            fields = {"content": piece, "accumulated": self.text, "token_count": self.pieces}
            await self.raw(event({"type": "chunk", **fields}))

    async def complete(self) -> None:
        """Send the `complete` event, `[DONE]` and the last chunk."""
        fields = {"type": "complete", "full_response": self.text, "total_tokens": self.pieces}
        await self._finish(event(fields), b"data: [DONE]\n\n")

    async def error(self, message: str = "") -> None:
        """Send an `error` event, then the last chunk: no `[DONE]`, as midm does."""
        await self._finish(event({"type": "error", "message": message}, ascii_only=True))

    async def end(self) -> None:
        """End the body in good order, with no word on how the reply ended."""
        await self._finish()

    async def raw(self, data: bytes) -> None:
        """Send these bytes as one chunk of the body."""
        await self._write(self._open() + chunk(data))

    # An answer

    async def answer(self, text: str, *, usage: dict[str, Any] | None = None) -> None:
        """Answer `/chat` with this text; `usage` is made up unless given."""
        fields = {"response": text, "usage": USAGE if usage is None else usage}
        await self.json(fields)

    async def json(self, fields: Any) -> None:
        """Answer with status 200 and this JSON."""
        body = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
        await self._whole(200, "application/json", body)

    async def status(self, code: int, body: str = "") -> None:
        """Answer with this status and page, as a proxy would."""
        await self._whole(code, "text/html; charset=utf-8", body.encode())

    # The connection

    async def wire(self, data: bytes) -> None:
        """Send these bytes as they are: no head, no chunk."""
        await self._write(data)

    async def cut(self) -> None:
        """Reset the connection where it stands."""
        raw: socket.socket = self._stream.extra(SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await self._hang_up()

    async def vanish(self) -> None:
        """Close the connection in the middle of the body, as a killed server does."""
        await self._hang_up()

    async def closed(self) -> None:
        """Wait until the client has closed its side."""
        with suppress(anyio.EndOfStream, *_GONE):
            while True:
                await self._stream.receive()
        self.answered.set()

    def _open(self) -> bytes:
        if self._started:
            return b""
        self._started = True
        head = _head(
            200,
            {
                "cache-control": "no-cache",
                "connection": "keep-alive",
                "x-accel-buffering": "no",
                "content-type": "text/event-stream; charset=utf-8",
                "vary": "Origin",
            },
        )
        head += b"connection: close\r\n" if self._closes else b""
        return head + b"transfer-encoding: chunked\r\n\r\n" + chunk(self._first())

    def _first(self) -> bytes:
        return event({"type": "start", "message": "Stream started"}, ascii_only=True)

    async def _finish(self, *events: bytes) -> None:
        await self._write(self._open() + b"".join(map(chunk, events)) + chunk(b""))
        self.answered.set()

    async def _whole(self, code: int, content_type: str, body: bytes) -> None:
        fields = {"content-length": len(body), "content-type": content_type, "vary": "Origin"}
        await self._write(_head(code, fields) + b"\r\n" + body)
        self.answered.set()

    async def _write(self, data: bytes) -> None:
        with suppress(*_GONE):
            await self._stream.send(data)

    async def _hang_up(self) -> None:
        self._closes = True
        await self._stream.aclose()
        self.answered.set()


class ScriptedModel:
    """A model server on 127.0.0.1, open within `async with`.

    `connections` counts those it has accepted; `health` is the body of `/health`, or None for a
    server that is too busy to answer.
    """

    makes: type[Call] = Call

    def __init__(self) -> None:
        self.url = ""
        self.connections = 0
        self.health: bytes | None = HEALTH
        self._reply: Callable[[Messages], Sequence[str]] | None = None
        self._send, self._receive = anyio.create_memory_object_stream[Call](math.inf)
        self._stack = AsyncExitStack()

    async def call(self) -> Call:
        """Wait for the next call of `/chat` or `/chat/stream`."""
        return await self._receive.receive()

    def autoreply(self, reply: Callable[[Messages], Sequence[str]]) -> None:
        """From now on answer each call with the pieces that `reply` makes of its messages."""
        self._reply = reply

    async def __aenter__(self) -> Self:
        for stream in (self._send, self._receive):
            self._stack.enter_context(stream)
        port = await self._stack.enter_async_context(listening(self._serve))
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._stack.__aexit__(exc_type, exc, traceback)

    async def _serve(self, stream: SocketStream) -> None:
        self.connections += 1
        reader = BufferedByteReceiveStream(stream)
        with suppress(anyio.EndOfStream, anyio.IncompleteRead, *_GONE):
            async with stream:
                while await self._serve_one(stream, reader):
                    pass

    async def _serve_one(self, stream: SocketStream, reader: BufferedByteReceiveStream) -> bool:
        """Answer one request; return whether the connection stays open."""
        head = (await reader.receive_until(b"\r\n\r\n", 65536)).decode("latin-1")
        (_, path, version), headers = _parse_head(head)
        length = int(headers.get("content-length", 0))
        body = json.loads(await reader.receive_exactly(length)) if length else None
        closes = version == "HTTP/1.0" or headers.get("connection", "").lower() == "close"
        call = self.makes(stream, path=path, body=body, closes=closes, headers=headers)
        if call.path.endswith(("/health", "/v1/models")):
            await self._answer_health(call)
        elif self._reply is not None:
            await self._autoreply(call, call.messages)
        else:
            await self._send.send(call)
            await call.answered.wait()
        return not closes

    async def _autoreply(self, call: Call, messages: Messages) -> None:
        assert self._reply is not None
        pieces = self._reply(messages)
        if call.path.endswith("/stream"):
            await call.say(*pieces)
            await call.complete()
        else:
            await call.answer("".join(pieces).strip())

    async def _answer_health(self, call: Call) -> None:
        if self.health is None:
            await call.closed()
        else:
            await call._whole(200, "application/json", self.health)


def _head(code: int, fields: dict[str, Any]) -> bytes:
    lines = [f"HTTP/1.1 {code} {_PHRASES.get(code, 'Whatever')}"]
    lines += [f"date: {formatdate(usegmt=True)}", "server: uvicorn"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return "".join(f"{line}\r\n" for line in lines).encode()


def _parse_head(head: str) -> tuple[list[str], dict[str, str]]:
    first, *rest = head.split("\r\n")
    pairs = (line.partition(":") for line in rest)
    return first.split(" "), {name.lower(): value.strip() for name, _, value in pairs}
