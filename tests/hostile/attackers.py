"""What hostile peers do: they say too much, too slowly or nothing, and do not listen."""

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import anyio

from tests.gateway.peers import Peer

NO_MASK = bytes(4)
SLOWLY_S = 0.1
GIVEN_UP_WITHIN_S = 8.0


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0) -> bytes:
    """One frame of a client (RFC 6455, section 5.2), its mask all zeros."""
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    return bytes((first,)) + length_of(len(payload)) + NO_MASK + payload


def length_of(size: int) -> bytes:
    """The length of a masked payload, in as few bytes as it takes."""
    if size < 126:
        return bytes((0x80 | size,))
    if size < 1 << 16:
        return b"\xfe" + size.to_bytes(2, "big")
    return b"\xff" + size.to_bytes(8, "big")


async def pour(peer: Peer, data: bytes, seconds: float) -> int:
    """Send the same bytes over and over, for as long as they are taken; return how many times."""
    times = 0
    with anyio.move_on_after(seconds), suppress(OSError):
        while True:
            await peer.send(data)
            times += 1
    return times


async def trickle(peer: Peer, data: bytes) -> None:
    """Send some bytes now and then, until the connection is closed."""
    with anyio.fail_after(GIVEN_UP_WITHIN_S), suppress(OSError):
        while True:
            await peer.send(data)
            await anyio.sleep(SLOWLY_S)


async def send(peer: Peer, *pieces: bytes) -> None:
    """Send all of it, unless the connection is closed before."""
    with suppress(OSError):
        for piece in pieces:
            await peer.send(piece)


async def everything(peer: Peer) -> bytes:
    """Read until the connection is closed."""
    with suppress(OSError):
        return await peer.rest()
    return b""


async def keep_reading(peer: Peer) -> None:
    """Read, whatever it is, until the connection is closed."""
    while await peer.receive():
        pass


@asynccontextmanager
async def strangers(url: str, number: int) -> AsyncIterator[list[Peer]]:
    """Connect so many peers that have said nothing yet."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Peer(url)) for _ in range(number)]


async def at_once(doings: Iterable[tuple[object, ...]]) -> None:
    """Call each function with its arguments, all of them together."""
    async with anyio.create_task_group() as tasks:
        for doing, *arguments in doings:
            tasks.start_soon(doing, *arguments)  # type: ignore[arg-type]
