"""How a transport is read, closed and waited for, and how fast a peer may be."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field

import anyio
import pytest

from gateway.listening import PeerLimits
from gateway.transports import BoundedTransport, Pace
from tests.gateway.harness import WITHIN_S
from tests.gateway.peers import Peer, until

LONG_S = 60.0
SOON_S = 0.1
A_MB = bytes(1_000_000)


@dataclass(eq=False)
class Line(asyncio.Protocol):
    """The gateway's end of a connection, which keeps what it reads."""

    close_s: float = LONG_S
    read: bytes = b""
    is_lost: bool = False
    transport: BoundedTransport = field(init=False)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = BoundedTransport(
            transport, asyncio.get_running_loop(), read_s=LONG_S, close_s=self.close_s
        )

    def data_received(self, data: bytes) -> None:
        self.read += data

    def eof_received(self) -> None:
        self.transport.close_both()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self.transport.lost()


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Line, Peer]]:
    """Both ends of a connection."""
    line = Line()
    server = await asyncio.get_running_loop().create_server(lambda: line, "127.0.0.1", 0)
    async with server, Peer(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as peer:
        await until(lambda: hasattr(line, "transport"))
        yield line, peer
        line.transport.abort()
        await until(lambda: line.is_lost)


async def test_the_last_word_reaches_who_goes_on_speaking(ends: tuple[Line, Peer]) -> None:
    line, peer = ends
    line.transport.linger(LONG_S)
    line.transport.write(b"the last word")
    line.transport.close()
    assert line.transport.is_closing()
    line.transport.write(b"and another")
    await peer.send(A_MB * 5)
    assert await peer.rest() == b"the last word"
    assert not line.is_lost
    peer.close_sending()
    await until(lambda: line.is_lost)


async def test_who_speaks_for_ever_is_not_listened_to_for_ever(ends: tuple[Line, Peer]) -> None:
    line, peer = ends
    line.transport.linger(SOON_S)
    line.transport.close()
    line.transport.close()
    with anyio.fail_after(WITHIN_S), suppress(OSError):
        while not line.is_lost:
            await peer.send(b"more")
            await anyio.sleep(SOON_S / 20)
    await until(lambda: line.is_lost)


async def test_who_was_not_listened_to_is_heard_out_when_it_is_closed(
    ends: tuple[Line, Peer],
) -> None:
    line, peer = ends
    rested = anyio.Event()
    line.transport.rest(SOON_S, rested.set)
    line.transport.pause_reading()
    line.transport.linger(LONG_S)
    line.transport.close()
    assert await peer.rest() == b""
    peer.close_sending()
    await until(lambda: line.is_lost)
    assert not rested.is_set()


async def test_closed_without_lingering_it_is_closed_at_once(ends: tuple[Line, Peer]) -> None:
    line, peer = ends
    line.transport.close()
    assert line.transport.is_closing()
    assert await peer.rest() == b""
    await until(lambda: line.is_lost)


async def test_a_rest_ends_by_itself(ends: tuple[Line, Peer]) -> None:
    line, peer = ends
    rested = anyio.Event()
    line.transport.rest(SOON_S, rested.set)
    await peer.send(b"said meanwhile")
    assert not line.transport.inner.is_reading()
    line.transport.resume_reading()  # not yet
    assert not line.transport.inner.is_reading()
    await rested.wait()
    await until(lambda: line.read == b"said meanwhile")


async def test_after_a_rest_it_is_read_on_only_if_nobody_minds(ends: tuple[Line, Peer]) -> None:
    line, peer = ends
    rested = anyio.Event()
    line.transport.rest(SOON_S, rested.set)
    line.transport.pause_reading()
    await peer.send(b"said meanwhile")
    await rested.wait()
    await anyio.wait_all_tasks_blocked()
    assert line.read == b""
    line.transport.resume_reading()
    await until(lambda: line.read == b"said meanwhile")


async def test_a_rest_may_follow_a_rest(ends: tuple[Line, Peer]) -> None:
    line, peer = ends
    rested = anyio.Event()
    line.transport.rest(SOON_S, lambda: line.transport.rest(SOON_S, rested.set))
    await peer.send(b"said meanwhile")
    await rested.wait()
    await until(lambda: line.read == b"said meanwhile")


# How fast

LIMITS = PeerLimits(frames_per_s=100, frames_at_once=10, flood_s=5.0)


def test_who_is_not_too_fast_never_rests() -> None:
    pace = Pace(LIMITS)
    assert [pace.rest_s(1, now=0.01 * number) for number in range(10_000)] == [0.0] * 10_000


def test_so_much_may_come_at_once() -> None:
    assert Pace(LIMITS).rest_s(10, now=1.0) == 0.0
    assert Pace(LIMITS).rest_s(11, now=1.0) == pytest.approx(0.11)


def test_what_came_before_counts_until_its_time_has_passed() -> None:
    pace = Pace(LIMITS)
    assert pace.rest_s(10, now=1.0) == 0.0
    assert pace.rest_s(5, now=1.05) == 0.0
    assert pace.rest_s(1, now=1.05) == pytest.approx(0.11)
    assert pace.rest_s(10, now=1.16) == 0.0


def test_a_flood_is_too_much_in_the_end() -> None:
    pace, now = Pace(LIMITS), 1.0
    while not pace.is_too_fast:
        rest_s = pace.rest_s(100, now=now)
        assert rest_s == pytest.approx(1.0)
        now += rest_s
    assert now == pytest.approx(1.0 + 6 * 1.0)


def test_what_comes_fast_now_and_then_is_no_flood() -> None:
    pace = Pace(LIMITS)
    for number in range(1_000):
        assert pace.rest_s(100, now=3.0 * number) > 0
        assert not pace.is_too_fast
