"""Hearing a body in the very step that receives it, over real sockets."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
from anyio.abc import SocketStream

from llm.transport import DirectTransport, Hear
from tests.llm.scripted import chunk, listening
from tests.llm.test_transport import CHUNKED, OK, Peer, _nothing_hangs, anyio_backend, server

__all__ = ["_nothing_hangs", "anyio_backend"]

Say = Callable[[bytes], Coroutine[Any, Any, None]]


class Heard:
    """What a listener was handed; it is content with `enough` bytes."""

    def __init__(self, enough: int = 1_000_000) -> None:
        self.data: list[bytes] = []
        self._enough = enough
        self._more = anyio.Event()

    def hear(self, data: bytes) -> bool:
        self.data.append(data)
        self._more.set()
        return len(b"".join(self.data)) < self._enough

    async def next(self) -> bytes:
        """Wait for what is heard next."""
        await self._more.wait()
        self._more = anyio.Event()
        return self.data[-1]


@asynccontextmanager
async def response_of(url: str) -> AsyncIterator[httpx.Response]:
    async with (
        httpx.AsyncClient(transport=DirectTransport()) as client,
        client.stream("GET", url) as response,
    ):
        yield response


async def listen(response: httpx.Response, hear: Hear) -> None:
    await response.extensions["listen"](hear)


@asynccontextmanager
async def streaming() -> AsyncIterator[tuple[str, Say, anyio.Event]]:
    """A server that sends what it is told to, and an event for the end of its connection."""
    streams: list[SocketStream] = []
    gone = anyio.Event()

    async def serve(stream: SocketStream) -> None:
        async with stream:
            await Peer(stream).request()
            await stream.send(CHUNKED)
            streams.append(stream)
            await Peer(stream).closed()
            gone.set()

    async def say(data: bytes) -> None:
        await streams[0].send(data)

    async with listening(serve) as port:
        yield f"http://127.0.0.1:{port}/", say, gone


async def test_each_read_is_heard_as_it_arrives_and_whole() -> None:
    heard = Heard()
    async with streaming() as (url, say, _), response_of(url) as response:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, response, heard.hear)
            await say(chunk(b"one"))
            assert await heard.next() == b"one"
            await say(chunk(b"two") + chunk(b"three"))
            assert await heard.next() == b"twothree"
            await say(chunk(b"four") + b"0\r\n\r\n")
        assert heard.data[2:] == [b"four"]


async def test_what_came_before_anybody_listened_is_heard_first() -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.stream.send(OK)

    heard = Heard()
    async with server(serve) as url, response_of(url) as response:
        await anyio.wait_all_tasks_blocked()
        await listen(response, heard.hear)
    assert heard.data == [b"ok"]


async def test_who_has_heard_enough_is_told_nothing_more() -> None:
    heard = Heard(enough=3)
    async with streaming() as (url, say, gone):
        async with response_of(url) as response, anyio.create_task_group() as tasks:
            tasks.start_soon(listen, response, heard.hear)
            await say(chunk(b"one"))
            await heard.next()
            await say(chunk(b"two"))
        assert heard.data == [b"one"]
        await gone.wait()


async def test_what_a_listener_raises_is_raised_where_it_listens() -> None:
    def refuse(data: bytes) -> bool:
        raise ValueError(data)

    async with streaming() as (url, say, gone):
        async with response_of(url) as response, anyio.create_task_group() as tasks:
            tasks.start_soon(say, chunk(b"one"))
            with pytest.raises(ValueError, match="one"):
                await listen(response, refuse)
        await gone.wait()


async def test_a_body_that_is_cut_is_heard_up_to_the_cut() -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.stream.send(CHUNKED + chunk(b"one"))

    heard = Heard()
    async with server(serve) as url, response_of(url) as response:
        with pytest.raises(httpx.RemoteProtocolError):
            await listen(response, heard.hear)
    assert heard.data == [b"one"]


async def test_cancelling_a_listener_closes_the_connection() -> None:
    heard = Heard()
    async with streaming() as (url, say, gone), response_of(url) as response:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, response, heard.hear)
            await say(chunk(b"one"))
            await heard.next()
            tasks.cancel_scope.cancel()
        await gone.wait()
