"""Replays recorded bytes over a real socket, cut in every way."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import SocketStream

from llm.client import Ending, Say, UpstreamError
from tests.llm.scripted import listening

Cut = Callable[[bytes], Iterator[bytes]]
Outcome = tuple[str, Ending | type[UpstreamError]]


def unchunked(body: bytes) -> bytes:
    whole = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        whole, body = whole + body[: int(size, 16)], body[int(size, 16) + 2 :]
    return whole


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def single_bytes(data: bytes) -> Iterator[bytes]:
    yield from (data[at : at + 1] for at in range(len(data)))


def cut_at_random(data: bytes) -> Iterator[bytes]:
    places = random.Random(len(data)).choices(range(len(data) + 1), k=len(data) // 50)
    for start, end in zip([0, *sorted(places)], [*sorted(places), len(data)], strict=True):
        yield data[start:end]


@asynccontextmanager
async def replaying(data: bytes, cut: Cut) -> AsyncIterator[str]:
    """A server that answers every request with these bytes; the context is its address."""

    async def serve(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            try:
                for piece in filter(None, cut(data)):
                    await stream.send(piece)
            except anyio.BrokenResourceError:
                return  # the driver has heard enough

    with anyio.fail_after(20):
        async with listening(serve) as port:
            yield f"http://127.0.0.1:{port}"


async def outcome_of(call: Callable[[Say], Awaitable[Ending]]) -> Outcome:
    """Make a call; return what it says, and its ending or the kind of its failure."""
    said: list[str] = []
    counts: list[int] = []
    ending: Ending | type[UpstreamError]

    def say(text: str, count: int) -> None:
        said.append(text)
        counts.append(count)

    try:
        ending = await call(say)
    except UpstreamError as error:
        ending = type(error)
    assert counts == sorted(set(counts)), "each piece counts once"
    return "".join(said), ending
