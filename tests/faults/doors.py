"""Ports of 127.0.0.1 that lead nowhere, until they are opened."""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, SocketStream

Door = AbstractContextManager[int]
"""Closed while entered; its value is the port."""

_GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


@contextmanager
def refusing() -> Iterator[int]:
    """A port that refuses connections, and that nobody else can take."""
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@contextmanager
def hanging() -> Iterator[int]:
    """A port whose queue of connections is full: the next one waits for ever."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        queued = [socket.socket() for _ in range(8)]
        for waiting in queued:
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        yield port
        for waiting in queued:
            waiting.close()


@asynccontextmanager
async def leading(port: int, to: int) -> AsyncIterator[None]:
    """Let connections to `port`, whose door is closed no more, lead to another port."""

    async def lead(near: SocketStream) -> None:
        async with (
            near,
            await anyio.connect_tcp("127.0.0.1", to) as far,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(_carry, near, far)
            await _carry(far, near)
            tasks.cancel_scope.cancel()

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port) as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, lead)
        yield
        tasks.cancel_scope.cancel()


async def _carry(source: ByteReceiveStream, sink: ByteSendStream) -> None:
    with suppress(*_GONE):
        while True:
            await sink.send(await source.receive())
