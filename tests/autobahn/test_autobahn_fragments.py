"""Fragmentation and limits: cases 5 and 9 of the Autobahn test suite, the latter in small."""

import time

import pytest

from tests.autobahn.talk import (
    BINARY,
    CONTINUATION,
    PROTOCOL_ERROR,
    TEXT,
    TOO_LARGE,
    UNSUPPORTED,
    closed_with,
    closes_well,
    echo,
    fragments,
    frame,
    message,
    octets,
    pong,
    send,
)
from tests.gateway.peers import PING, PONG, Peer

MAX_BYTES = 512 * 1024
HALVES = fragments(TEXT, [message()[:10], message()[10:]])
FIFTHS = fragments(TEXT, [message()[:5], message()[5:10], b"", message()[10:20], message()[20:]])
WHOLE = frame(TEXT, message())


@pytest.mark.parametrize("opcode", [pytest.param(PING, id="5.1"), pytest.param(PONG, id="5.2")])
async def test_a_control_frame_in_fragments_is_an_error(opcode: int, peer: Peer) -> None:
    await send(peer, frame(opcode, b"one", fin=False), frame(CONTINUATION, b"two"))
    assert await closed_with(peer) == PROTOCOL_ERROR


@pytest.mark.parametrize(
    "written",
    [
        pytest.param([b"".join(HALVES)], id="5.3"),
        pytest.param(HALVES, id="5.4"),
        pytest.param(octets(b"".join(HALVES)), id="5.5"),
    ],
)
async def test_a_message_in_fragments_is_one_message(written: list[bytes], peer: Peer) -> None:
    await send(peer, *written)
    assert await echo(peer) == "r1"
    await closes_well(peer)


BETWEEN = [HALVES[0], frame(PING, b"between"), HALVES[1]]


@pytest.mark.parametrize(
    "written",
    [
        pytest.param([b"".join(BETWEEN)], id="5.6"),
        pytest.param(BETWEEN, id="5.7"),
        pytest.param(octets(b"".join(BETWEEN)), id="5.8"),
    ],
)
async def test_a_ping_between_fragments_is_answered_at_once(
    written: list[bytes], peer: Peer
) -> None:
    await send(peer, *written)
    assert await pong(peer) == b"between"
    assert await echo(peer) == "r1"
    await closes_well(peer)


LAST = [frame(CONTINUATION, b"of nothing"), WHOLE]
NOT_LAST = [frame(CONTINUATION, b"of nothing", fin=False), WHOLE]


@pytest.mark.parametrize(
    "written",
    [
        pytest.param([b"".join(LAST)], id="5.9"),
        pytest.param(LAST, id="5.10"),
        pytest.param(octets(b"".join(LAST)), id="5.11"),
        pytest.param([b"".join(NOT_LAST)], id="5.12"),
        pytest.param(NOT_LAST, id="5.13"),
        pytest.param(octets(b"".join(NOT_LAST)), id="5.14"),
        pytest.param([NOT_LAST[0], *HALVES, NOT_LAST[0], *HALVES], id="5.16"),
        pytest.param([LAST[0], *HALVES, LAST[0], *HALVES], id="5.17"),
        pytest.param([HALVES[0], frame(TEXT, message()[10:])], id="5.18"),
    ],
)
async def test_a_fragment_that_fits_nothing_is_an_error(written: list[bytes], peer: Peer) -> None:
    await send(peer, *written)
    assert await closed_with(peer) == PROTOCOL_ERROR


@pytest.mark.parametrize("more", [pytest.param([*NOT_LAST], id="5.15")])
async def test_a_fragment_behind_a_message_is_an_error(more: list[bytes], peer: Peer) -> None:
    await send(peer, *HALVES)
    assert await echo(peer) == "r1"
    await send(peer, *more)
    assert await closed_with(peer) == PROTOCOL_ERROR


@pytest.mark.parametrize("waits", [pytest.param(True, id="5.19"), pytest.param(False, id="5.20")])
async def test_pings_among_many_fragments_are_answered_in_order(waits: bool, peer: Peer) -> None:
    for number, piece in enumerate(FIFTHS[:-1]):
        await send(peer, piece, frame(PING, b"%d" % number))
        if waits:
            assert await pong(peer) == b"%d" % number
    await send(peer, FIFTHS[-1])
    if not waits:
        assert [await pong(peer) for _ in FIFTHS[:-1]] == [b"0", b"1", b"2", b"3"]
    assert await echo(peer) == "r1"
    await closes_well(peer)


# 9: as much as is accepted, in all the ways it may come


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(64 * 1024, id="9.1.1"),
        pytest.param(256 * 1024, id="9.1.2"),
        pytest.param(MAX_BYTES, id="9.1.3"),
    ],
)
async def test_a_large_message_is_answered(size: int, peer: Peer) -> None:
    await send(peer, frame(TEXT, message(size=size)))
    assert await echo(peer) == "r1"
    await closes_well(peer)


@pytest.mark.parametrize("size", [pytest.param(256 * 1024, id="9.2.2")])
async def test_a_large_binary_message_is_not_supported(size: int, peer: Peer) -> None:
    await send(peer, frame(BINARY, bytes(size)))
    assert await closed_with(peer) == UNSUPPORTED


@pytest.mark.parametrize(
    ("size", "piece"),
    [
        pytest.param(16 * 1024, 64, id="9.3.1"),
        pytest.param(32 * 1024, 256, id="9.3.2"),
        pytest.param(256 * 1024, 4 * 1024, id="9.3.4"),
        pytest.param(MAX_BYTES, 16 * 1024, id="9.3.5"),
        pytest.param(MAX_BYTES, 64 * 1024, id="9.3.6"),
        pytest.param(MAX_BYTES, MAX_BYTES, id="9.3.9"),
    ],
)
async def test_a_large_message_in_fragments_is_answered(size: int, piece: int, peer: Peer) -> None:
    text = message(size=size)
    pieces = [text[at : at + piece] for at in range(0, size, piece)]
    await send(peer, b"".join(fragments(TEXT, pieces)))
    assert await echo(peer) == "r1"
    await closes_well(peer)


@pytest.mark.parametrize(
    "chop",
    [
        pytest.param(64, id="9.5.1"),
        pytest.param(512, id="9.5.4"),
        pytest.param(2_048, id="9.5.6"),
    ],
)
async def test_a_large_message_in_chops_is_answered(chop: int, peer: Peer) -> None:
    data = frame(TEXT, message(size=64 * 1024))
    await send(peer, *[data[at : at + chop] for at in range(0, len(data), chop)])
    assert await echo(peer) == "r1"
    await closes_well(peer)


@pytest.mark.parametrize("size", [pytest.param(64, id="9.7.2"), pytest.param(1_024, id="9.7.4")])
async def test_many_messages_one_after_another_are_answered(size: int, peer: Peer) -> None:
    began = time.monotonic()
    for number in range(200):
        await send(peer, frame(TEXT, message(f"r{number}", size=size)))
        assert await echo(peer) == f"r{number}"
    assert time.monotonic() - began < 5.0
    await closes_well(peer)


@pytest.mark.parametrize(
    "written",
    [
        pytest.param([frame(TEXT, message(size=MAX_BYTES + 1))], id="whole"),
        pytest.param(
            fragments(TEXT, [message(), bytes(MAX_BYTES // 2), bytes(MAX_BYTES // 2)]),
            id="in fragments",
        ),
    ],
)
async def test_a_message_over_the_limit_is_closed_with_1009(
    written: list[bytes], peer: Peer
) -> None:
    await send(peer, *written)
    assert await closed_with(peer) == TOO_LARGE
