"""A peer that does not say what it wants is not waited for."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from gateway.listening import PeerLimits
from tests.gateway.harness import WITHIN_S
from tests.gateway.peers import Peer, resident_mb, serving, until

SOON_S = 0.2
HASTY = PeerLimits(head_s=SOON_S, body_s=SOON_S)
PATIENT = PeerLimits(head_s=60, body_s=60)
HEALTH = b"GET /api/health HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def health(peer: Peer) -> None:
    """Send a whole request and read the whole answer."""
    await peer.send(HEALTH)
    assert b" 200 " in await peer.until(b"\r\n\r\n")
    await peer.until(b'"}')


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\r\n\r\n",
        b"GET /api/hea",
        b"GET /api/health HTTP/1.1\r\nHost: localhost\r\n",
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n",
        b"POST /api/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{",
        HEALTH.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\nhal"),
    ],
)
async def test_half_a_request_is_dropped(said: bytes, tmp_path: Path) -> None:
    async with serving(tmp_path, HASTY) as served, Peer(served.url) as peer:
        await peer.send(said)
        await peer.rest()
        await served.all_gone()


async def test_a_head_that_comes_byte_by_byte_is_dropped(tmp_path: Path) -> None:
    async with serving(tmp_path, HASTY) as served, Peer(served.url) as peer:
        with suppress(OSError):
            for byte in b"GET /" + b"x" * 1_000:
                await peer.send(bytes([byte]))
                await anyio.sleep(SOON_S / 20)  # so that no limit between two bytes would notice
            pytest.fail("it was waited for")
        await served.all_gone()


async def test_a_head_that_comes_slowly_but_in_time_is_served(tmp_path: Path) -> None:
    async with serving(tmp_path, PATIENT) as served, Peer(served.url) as peer:
        for byte in HEALTH:
            await peer.send(bytes([byte]))
            await anyio.lowlevel.checkpoint()
        assert b" 200 " in await peer.until(b"\r\n\r\n")


async def test_line_breaks_after_an_answer_do_not_keep_a_connection(tmp_path: Path) -> None:
    # uvicorn ends its keep-alive timeout at the first byte, which here begins nothing.
    async with serving(tmp_path, HASTY) as served, Peer(served.url) as peer:
        await health(peer)
        await peer.send(b"\r\n")
        assert await peer.rest() == b""


async def test_the_next_request_of_a_connection_has_its_own_time(tmp_path: Path) -> None:
    async with serving(tmp_path, HASTY) as served, Peer(served.url) as peer:
        for _ in range(3):
            await health(peer)
        await peer.send(b"GET /api")
        assert await peer.rest() == b""


async def test_an_answer_may_take_longer_than_its_question(tmp_path: Path) -> None:
    async with serving(tmp_path, HASTY) as served, Peer(served.url) as peer:
        await peer.send(
            b"POST /api/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
        )
        await peer.until(b'"session_id":"')
        session_id = (await peer.until(b'"'))[:-1]
        await peer.until(b"}}")
        body = b'{"session_id": "%b", "message": "hi"}' % session_id
        head = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        # Pipelined: what follows is not listened to, so its time does not run either.
        await peer.send(head % len(body) + body + head % len(body) + body[:5])
        call = await served.model.call()
        await anyio.sleep(3 * SOON_S)
        await call.answer("late")
        await peer.until(b'"content":"late"')


async def test_a_websocket_has_no_limit_for_a_request(tmp_path: Path) -> None:
    async with serving(tmp_path, HASTY) as served, Peer(served.url) as peer:
        await peer.open()
        with anyio.move_on_after(3 * SOON_S):
            await peer.raw_frame()
        await peer.say(1, b"/ping")
        assert await peer.frame() == {"type": "pong"}


@pytest.mark.parametrize("name", ["Cookie", "X" * 200_000])
async def test_a_head_that_never_ends_is_refused_before_it_fills_the_memory(
    name: str, tmp_path: Path
) -> None:
    async with serving(tmp_path, PATIENT) as served, Peer(served.url) as peer:
        await peer.send(f"GET / HTTP/1.1\r\nHost: localhost\r\n{name}: ".encode())
        before_mb = resident_mb()
        # Heard out, or the answer would be lost to a reset; but dropped.
        for _ in range(300):
            await peer.send(b"x" * 100_000)
        assert (await peer.rest()).startswith(b"HTTP/1.1 431 ")
        assert resident_mb() - before_mb < 10


async def test_a_head_that_is_too_large_is_told_so(tmp_path: Path) -> None:
    limits = PeerLimits(max_head_bytes=1_000)
    async with serving(tmp_path, limits) as served, Peer(served.url) as peer:
        await peer.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: " + b"x" * 500)
        await until(lambda: any(each._head_bytes > 500 for each in served.connections))
        await peer.send(b"x" * 501)
        assert (await peer.rest()).startswith(b"HTTP/1.1 431 ")


EXACT = PeerLimits(max_head_bytes=2_000, max_target_bytes=300, max_header_lines=20, close_s=SOON_S)
LINES = b"Host: x\r\nConnection: close\r\n"


def head_of(size: int) -> bytes:
    begun = b"GET /api/health HTTP/1.1\r\n" + LINES + b"X: "
    return begun + b"x" * (size - len(begun) - 4) + b"\r\n\r\n"


def head_of_lines(count: int) -> bytes:
    return b"GET /api/health HTTP/1.1\r\n" + LINES + b"X: y\r\n" * (count - 2) + b"\r\n"


def head_with_target(size: int) -> bytes:
    target = b"/api/health?".ljust(size, b"x")
    return b"GET " + target + b" HTTP/1.1\r\n" + LINES + b"\r\n"


@pytest.mark.parametrize("by_byte", [False, True])
@pytest.mark.parametrize(
    ("head", "most", "status"),
    [
        pytest.param(head_of, EXACT.max_head_bytes, b"431", id="bytes"),
        pytest.param(head_of_lines, EXACT.max_header_lines, b"431", id="lines"),
        pytest.param(head_with_target, EXACT.max_target_bytes, b"414", id="target"),
    ],
)
async def test_a_head_is_served_up_to_its_limit_and_refused_from_there_on(
    head: Callable[[int], bytes], most: int, status: bytes, by_byte: bool, tmp_path: Path
) -> None:
    async with serving(tmp_path, EXACT) as served:
        for size, expected in ((most - 1, b"200"), (most, b"200"), (most + 1, status)):
            async with Peer(served.url) as peer:
                await say(peer, head(size), by_byte=by_byte)
                assert (await peer.rest()).startswith(b"HTTP/1.1 " + expected), size


async def say(peer: Peer, data: bytes, *, by_byte: bool) -> None:
    with suppress(OSError):  # refused before the end of it
        for piece in (bytes([byte]) for byte in data) if by_byte else (data,):
            await peer.send(piece)
            await anyio.lowlevel.checkpoint()


async def test_the_next_head_of_a_connection_has_the_same_limit(tmp_path: Path) -> None:
    most = EXACT.max_head_bytes
    async with serving(tmp_path, EXACT) as served, Peer(served.url) as peer:
        await health(peer)
        await peer.send(head_of(most).replace(b"close", b"alive"))
        assert b" 200 " in await peer.until(b"\r\n\r\n")
        await peer.until(b'"}')
        await peer.send(head_of(most + 1))
        assert b" 431 " in await peer.rest()


@pytest.mark.parametrize("size", [9, 300_000])
async def test_a_body_is_no_head(size: int, tmp_path: Path) -> None:
    async with serving(tmp_path, EXACT) as served, Peer(served.url) as peer:
        head = b"POST /api/sessions HTTP/1.1\r\n" + LINES + b"Content-Length: %d\r\n\r\n" % size
        await peer.send(head + b"{}".ljust(size))
        assert b" 201 " in await peer.until(b"\r\n")


@pytest.mark.parametrize(
    "more", [b"X: y\r\n" * 30, b"X: " + b"y" * 3_000], ids=["lines", "a long line"]
)
async def test_what_follows_a_body_has_the_limits_of_a_head(more: bytes, tmp_path: Path) -> None:
    head = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serving(tmp_path, EXACT) as served, Peer(served.url) as peer:
        await peer.send(head)
        assert b" 404 " in await peer.until(b"\r\n")
        await peer.send(b"0\r\n" + more + b"\r\n\r\n")
        await peer.rest()
        await served.all_gone()


async def test_so_many_requests_may_wait_for_the_answers_before_them(tmp_path: Path) -> None:
    limits = PeerLimits(max_pipelined=3)
    async with serving(tmp_path, limits) as served:
        async with Peer(served.url, room=65_536) as peer:
            await peer.send(HEALTH * 4)  # the first of them does not wait
            for _ in range(4):
                assert b" 200 " in await peer.until(b"\r\n\r\n")
        async with Peer(served.url) as peer:
            await peer.send(HEALTH * 5)
            assert await peer.rest() == b""


async def test_a_body_that_nobody_wants_has_no_more_time_than_another(tmp_path: Path) -> None:
    async with serving(tmp_path, HASTY) as served, Peer(served.url) as peer:
        await peer.send(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        assert b" 404 " in await peer.until(b"\r\n")
        with suppress(OSError):
            for _ in range(500):
                await peer.send(b" ")
                await anyio.sleep(SOON_S / 20)
            pytest.fail("it was waited for")
        await served.all_gone()


async def test_who_goes_on_sending_is_told_all_the_same(tmp_path: Path) -> None:
    limits = replace(PATIENT, close_s=60)
    async with serving(tmp_path, limits) as served, Peer(served.url) as peer:
        await peer.send(b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000_000)
        assert (await peer.rest()).startswith(b"HTTP/1.1 431 ")
        # The connection waits for the other end of it.
        assert served.connections
        peer.close_sending()
        await served.all_gone()


async def test_who_goes_on_sending_is_not_heard_for_ever(tmp_path: Path) -> None:
    limits = replace(PATIENT, close_s=SOON_S)
    async with serving(tmp_path, limits) as served, Peer(served.url) as peer:
        with anyio.fail_after(WITHIN_S), suppress(OSError):
            while True:
                await peer.send(b"x" * 100_000)
                await anyio.sleep(SOON_S / 20)
        await served.all_gone()


@pytest.mark.parametrize("said", [b"\x16\x03\x01\r\n", b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_what_is_no_request_of_ours_is_told_so(said: bytes, tmp_path: Path) -> None:
    async with serving(tmp_path, PATIENT) as served, Peer(served.url) as peer:
        await peer.send(said)
        assert (await peer.rest()).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({f"X-{number}": "x" for number in range(200)}, b" 431 "),
        ({"Cookie": "x" * 10_000}, b" 431 "),
        ({"Content-Length": "0"}, b" 101 "),
    ],
)
async def test_a_handshake_that_websockets_will_not_take_is_answered(
    more: dict[str, str], status: bytes, tmp_path: Path
) -> None:
    async with serving(tmp_path, PATIENT) as served, Peer(served.url) as peer:
        handshake = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
        await peer.request("GET", "/ws", **handshake, **more)
        assert status in await peer.until(b"\r\n")


async def test_a_handshake_with_another_method_is_not_left_open(tmp_path: Path) -> None:
    async with serving(tmp_path, PATIENT) as served, Peer(served.url) as peer:
        await peer.request("POST", "/ws", Connection="Upgrade", Upgrade="websocket")
        await peer.rest()
        await served.all_gone()
