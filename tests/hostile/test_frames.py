"""Frames that come without end, are empty, announced and not sent, compressed, or not read."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.gateway.peers import CLOSE, PING, PONG, Peer
from tests.hostile.attackers import (
    NO_MASK,
    at_once,
    everything,
    frame,
    keep_reading,
    length_of,
    pour,
    send,
    strangers,
)
from tests.hostile.siege import FLOOD, Siege

TEXT, CONTINUATION = 1, 0
MAX_BYTES = 512 * 1024
FOR_S = 0.8
MANY = 5_000
BEGUN = frame(TEXT, fin=False)
EMPTY = frame(CONTINUATION, fin=False)
A_BYTE = frame(CONTINUATION, b"x", fin=False)
A_PING = frame(PING, bytes(125))
TOO_LARGE = (1009).to_bytes(2, "big")


@asynccontextmanager
async def sockets(url: str, number: int) -> AsyncIterator[list[Peer]]:
    """Open so many WebSockets."""
    async with strangers(url, number) as peers:
        await at_once((peer.open,) for peer in peers)
        yield peers


FLOODS = [
    pytest.param(b"", frame(PING), id="pings"),
    pytest.param(b"", A_PING, id="large pings"),
    pytest.param(b"", frame(PONG), id="pongs"),
    pytest.param(b"", frame(PONG, bytes(125)), id="large pongs"),
    pytest.param(b"", frame(CLOSE, (1000).to_bytes(2, "big")), id="close frames"),
    pytest.param(BEGUN, EMPTY, id="empty fragments"),
    pytest.param(BEGUN, A_BYTE, id="fragments of a byte"),
    pytest.param(BEGUN, EMPTY + frame(PING), id="empty fragments and pings"),
    pytest.param(BEGUN, frame(PING) + frame(PONG), id="a message without end, pings and pongs"),
    pytest.param(b"", frame(TEXT, b"{"), id="invalid messages"),
    pytest.param(b"", frame(TEXT), id="empty messages"),
    pytest.param(b"", frame(TEXT, b"/ping"), id="messages"),
    pytest.param(b"", frame(TEXT, b'{"type":"history"}'), id="questions"),
]


@pytest.mark.parametrize(("begun", "more"), FLOODS)
async def test_frames_without_end_from_who_does_not_read_cost_nobody_else(
    begun: bytes, more: bytes, siege: Siege
) -> None:
    async with siege.undisturbed(peers=2), sockets(siege.url, 2) as peers:
        await at_once((send, peer, begun) for peer in peers)
        await at_once((pour, peer, more * MANY, FOR_S) for peer in peers)


@pytest.mark.parametrize(("begun", "more"), FLOODS)
async def test_frames_without_end_from_who_reads_cost_nobody_else(
    begun: bytes, more: bytes, siege: Siege
) -> None:
    async def attack(peer: Peer) -> None:
        await send(peer, begun)
        await pour(peer, more * MANY, FOR_S)
        peer.close_sending()

    async with siege.undisturbed(peers=2), sockets(siege.url, 2) as peers:
        await at_once([(attack, peer) for peer in peers] + [(keep_reading, peer) for peer in peers])


async def test_a_long_reply_that_is_never_read_is_not_kept_for_its_reader(siege: Siege) -> None:
    ask = json.dumps({"type": "chat", "message": FLOOD}).encode()
    async with siege.undisturbed(peers=10, within_mb=60), sockets(siege.url, 10) as peers:
        await at_once((send, peer, frame(TEXT, ask)) for peer in peers)
        async with sockets(siege.url, 1) as [reader]:
            await send(reader, frame(TEXT, ask))
            while (await reader.frame())["type"] != "complete":
                pass


@pytest.mark.parametrize(
    "announced",
    [
        pytest.param(b"\x81" + length_of((1 << 63) - 1), id="2^63-1 bytes"),
        pytest.param(b"\x81" + length_of((1 << 64) - 1), id="more than there can be"),
        pytest.param(b"\x81" + length_of(MAX_BYTES + 1), id="a byte too many"),
        pytest.param(b"\x82" + length_of(MAX_BYTES + 1), id="a byte too many, binary"),
        pytest.param(BEGUN + b"\x80" + length_of(MAX_BYTES + 1), id="a byte too many at the end"),
        pytest.param(
            frame(TEXT, b"x", fin=False) + b"\x80" + length_of(MAX_BYTES),
            id="a byte too many in all",
        ),
    ],
)
async def test_what_is_too_large_is_closed_when_it_is_announced(
    announced: bytes, siege: Siege
) -> None:
    async with siege.undisturbed(peers=1), sockets(siege.url, 1) as [peer]:
        await send(peer, announced + NO_MASK)
        opcode, payload = await peer.raw_frame()
        assert (opcode, payload[:2]) == (CLOSE, TOO_LARGE)


async def test_what_is_too_large_is_told_so_while_it_is_being_sent(siege: Siege) -> None:
    async with siege.undisturbed(peers=1), sockets(siege.url, 1) as [peer]:
        await send(peer, frame(TEXT, bytes(20_000_000)))
        opcode, payload = await peer.raw_frame()
        assert (opcode, payload[:2]) == (CLOSE, TOO_LARGE)


async def test_what_is_announced_is_not_made_room_for(siege: Siege) -> None:
    async with siege.undisturbed(peers=30), sockets(siege.url, 30) as peers:
        await at_once((send, peer, b"\x81" + length_of(MAX_BYTES) + NO_MASK) for peer in peers)


async def test_nothing_is_inflated(siege: Siege) -> None:
    bomb = frame(TEXT, bytes(1_000), reserved=0b100)
    async with siege.undisturbed(peers=1), strangers(siege.url, 1) as [peer]:
        await peer.request(
            "GET",
            "/ws",
            Connection="Upgrade",
            Upgrade="websocket",
            Sec_WebSocket_Version="13",
            Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
            Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits, x-webkit-deflate",
        )
        head = await peer.until(b"\r\n\r\n")
        assert b" 101 " in head
        assert b"extensions" not in head.lower()
        assert (await peer.frame())["type"] == "ready"
        await send(peer, bomb)
        assert (await everything(peer))[2:4] == (1002).to_bytes(2, "big")
