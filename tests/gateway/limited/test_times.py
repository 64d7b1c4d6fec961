"""A peer that takes too long to say what it wants is dropped, and nobody waits for it meanwhile."""

from contextlib import suppress

import anyio
import pytest

from tests.gateway.harness import Gateway
from tests.gateway.limited.visitors import Begin, empty, taken
from tests.gateway.peers import Peer

SOON_S, LATE_S = 0.2, 60

HASTY_HEAD = {"header_timeout_s": SOON_S, "body_timeout_s": LATE_S}
HASTY_BODY = {"header_timeout_s": LATE_S, "body_timeout_s": SOON_S}

HALF_A_HEAD = b"POST /api/sessions HTTP/1.1\r\nHost: localhost\r\n"
HALF_A_BODY = HALF_A_HEAD + b"Content-Length: 2\r\n\r\n{"
HANDSHAKE = b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"


async def is_dropped(peer: Peer) -> float:
    """Wait until a peer is dropped, without an answer; return how long that took, in seconds."""
    begun = anyio.current_time()
    assert await peer.rest() == b""
    return anyio.current_time() - begun


async def is_served(gateway: Gateway) -> None:
    assert (await gateway.http.post("/api/sessions", json={})).status_code == 201


async def trickle(peer: Peer, end: bytes) -> None:
    """Send without end, a byte at a time, so that no limit between two bytes would notice."""
    await peer.send(end)
    for _ in range(1_000):
        await peer.send(b"x")
        await anyio.sleep(SOON_S / 20)


@pytest.mark.parametrize("said", [b"", b"POST /api/sess", HALF_A_HEAD, HANDSHAKE])
async def test_half_a_head_is_waited_for_so_long_and_others_are_served_meanwhile(
    served_limited: Begin, said: bytes
) -> None:
    async with served_limited(**HASTY_HEAD) as gateway, Peer(str(gateway.http.base_url)) as peer:
        await peer.send(said)
        await is_served(gateway)
        assert await is_dropped(peer) < LATE_S / 2
        await is_served(gateway)


async def test_half_a_body_is_waited_for_so_long_and_others_are_served_meanwhile(
    served_limited: Begin,
) -> None:
    async with served_limited(**HASTY_BODY) as gateway, Peer(str(gateway.http.base_url)) as peer:
        await peer.send(HALF_A_BODY)
        await is_served(gateway)
        assert await is_dropped(peer) < LATE_S / 2
        await is_served(gateway)
        assert gateway.rows("SELECT count(*) FROM sessions") == [(2,)]


@pytest.mark.parametrize(
    ("limits", "said", "rest"),
    [
        (HASTY_BODY, HALF_A_HEAD, b"Content-Length: 0\r\n\r\n"),
        (HASTY_HEAD, HALF_A_BODY, b"}"),
    ],
)
async def test_the_one_time_is_not_the_other(
    served_limited: Begin, limits: dict[str, float], said: bytes, rest: bytes
) -> None:
    async with served_limited(**limits) as gateway, Peer(str(gateway.http.base_url)) as peer:
        await peer.send(said)
        with anyio.move_on_after(2 * SOON_S):
            pytest.fail(f"it was not waited for: {await peer.receive()!r}")
        await peer.send(rest)
        assert b" 201 " in await peer.until(b"\r\n")


@pytest.mark.parametrize(
    ("limits", "begun"),
    [
        (HASTY_HEAD, HALF_A_HEAD + b"X-Slow: "),
        (HASTY_BODY, HALF_A_HEAD + b"Content-Length: 4000\r\n\r\n"),
    ],
)
async def test_who_speaks_on_and_on_but_slowly_is_dropped_too(
    served_limited: Begin, limits: dict[str, float], begun: bytes
) -> None:
    async with served_limited(**limits) as gateway, Peer(str(gateway.http.base_url)) as peer:
        with suppress(OSError):
            await trickle(peer, begun)
            pytest.fail("it was waited for")
        await is_served(gateway)


async def test_who_is_dropped_leaves_its_seat(served_limited: Begin) -> None:
    async with served_limited(**HASTY_BODY) as gateway, Peer(str(gateway.http.base_url)) as peer:
        await peer.send(HALF_A_BODY.replace(b"/api/sessions", b"/api/chat/stream"))
        await is_served(gateway)
        await taken(gateway, 1)
        await is_dropped(peer)
        await empty(gateway)
