"""A peer that does not say what it wants is not waited for."""

from contextlib import suppress
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from gateway.listening import PeerLimits
from tests.gateway.peers import Peer, serving, until

SOON_S = 0.2
HASTY = PeerLimits(head_s=SOON_S, body_s=SOON_S)
PATIENT = PeerLimits(head_s=60, body_s=60)
HEALTH = b"GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n"


async def health(peer: Peer) -> None:
    """Send a whole request and read the whole answer."""
    await peer.send(HEALTH)
    assert b" 200 " in await peer.until(b"\r\n\r\n")
    await peer.until(b"}")


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\r\n\r\n",
        b"GET /api/hea",
        b"GET /api/health HTTP/1.1\r\nHost: x\r\n",
        b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n",
        b"POST /api/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{",
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
        await peer.send(b"POST /api/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        await peer.until(b'"session_id":"')
        session_id = (await peer.until(b'"'))[:-1]
        await peer.until(b"}}")
        body = b'{"session_id": "%b", "message": "hi"}' % session_id
        head = b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
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
        await peer.send(f"GET / HTTP/1.1\r\nHost: x\r\n{name}: ".encode())
        sent = 0
        with suppress(OSError):
            while sent < 20_000_000:
                await peer.send(b"x" * 10_000)
                sent += 10_000
        assert sent < 5_000_000
        await served.all_gone()


async def test_a_head_that_is_too_large_is_told_so(tmp_path: Path) -> None:
    limits = PeerLimits(max_head_bytes=1_000)
    async with serving(tmp_path, limits) as served, Peer(served.url) as peer:
        await peer.send(b"GET / HTTP/1.1\r\nHost: x\r\nCookie: " + b"x" * 500)
        await until(lambda: any(each._head_bytes > 500 for each in served.connections))
        await peer.send(b"x" * 501)
        assert (await peer.rest()).startswith(b"HTTP/1.1 431 ")


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
