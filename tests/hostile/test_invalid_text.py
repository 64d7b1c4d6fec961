"""Peers that send what is not UTF-8, thousands of them in a row."""

import os

import anyio
import pytest

from tests.gateway.peers import CLOSE, Peer
from tests.hostile.attackers import at_once, frame
from tests.hostile.siege import Siege

CONNECTIONS = int(os.environ.get("HOSTILE_CONNECTIONS", "1000"))
AT_ONCE = 24
INVALID = (1007).to_bytes(2, "big")
WHOLE = frame(1, b"\xce\xba\xff")
SPLIT = frame(1, b"\xe1", fin=False) + frame(0, b"\xbd", fin=False) + frame(0, b"")
CLOSED_IN_THE_SAME_BREATH = WHOLE + frame(CLOSE, (1000).to_bytes(2, "big"))


async def told_1007(url: str, session_id: str, said: bytes) -> None:
    """Send it, and be closed with 1007."""
    async with Peer(url) as peer:
        await peer.open(session_id=session_id)
        await peer.send(said)
        assert await peer.raw_frame() == (CLOSE, INVALID)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(WHOLE, id="whole"),
        pytest.param(SPLIT, id="in fragments"),
    ],
)
async def test_thousands_in_a_row_leave_nothing_behind(said: bytes, siege: Siege) -> None:
    async with Peer(siege.url) as first:
        session_id = (await first.open())["session_id"]
    left = iter(range(CONNECTIONS // 2))

    async def attack() -> None:
        for _ in left:
            await told_1007(siege.url, session_id, said)

    async with siege.undisturbed(peers=0):
        await at_once([(attack,)] * AT_ONCE)


async def test_who_closes_in_the_same_breath_leaves_no_traceback(siege: Siege) -> None:
    async with siege.undisturbed(peers=0), Peer(siege.url) as peer:
        await peer.open()
        await peer.send(CLOSED_IN_THE_SAME_BREATH)
        with anyio.fail_after(5):
            assert (await peer.raw_frame())[0] == CLOSE
            await peer.rest()
