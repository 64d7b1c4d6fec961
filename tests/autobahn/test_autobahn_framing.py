"""Framing, pings, reserved bits, opcodes: cases 1 to 4 of the Autobahn test suite."""

import json

import pytest

from tests.autobahn.talk import (
    BINARY,
    PROTOCOL_ERROR,
    TEXT,
    UNSUPPORTED,
    closed_with,
    closes_well,
    echo,
    frame,
    message,
    octets,
    pong,
    send,
)
from tests.gateway.peers import CLOSE, PING, PONG, Peer

SIZES = {2: 125, 3: 126, 4: 127, 5: 128, 6: 65_535, 7: 65_536}
MUCH = bytes(range(0x80, 0x80 + 125))


def chops(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


# 1: messages of all the sizes at which the head of a frame changes


@pytest.mark.parametrize("size", [pytest.param(s, id=f"1.1.{n}") for n, s in SIZES.items()])
async def test_a_text_message_of_any_size_is_answered(size: int, peer: Peer) -> None:
    await send(peer, frame(TEXT, message(size=size)))
    assert await echo(peer) == "r1"
    await closes_well(peer)


@pytest.mark.parametrize("_", [pytest.param(0, id="1.1.1")])
async def test_an_empty_text_message_is_a_mistake_and_no_violation(_: int, peer: Peer) -> None:
    await send(peer, frame(TEXT))
    assert (await peer.frame())["type"] == "error"
    await closes_well(peer)


@pytest.mark.parametrize("size", [pytest.param(65_536, id="1.1.8")])
async def test_a_text_message_in_chops_is_answered(size: int, peer: Peer) -> None:
    await send(peer, *chops(frame(TEXT, message(size=size)), 997))
    assert await echo(peer) == "r1"
    await closes_well(peer)


@pytest.mark.parametrize(
    "size", [pytest.param(s, id=f"1.2.{n}") for n, s in {1: 0, **SIZES, 8: 65_536}.items()]
)
async def test_a_binary_message_is_not_supported(size: int, peer: Peer) -> None:
    await send(peer, *chops(frame(BINARY, bytes(size)), 997))
    assert await closed_with(peer) == UNSUPPORTED


# 2: pings and pongs


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="2.1"),
        pytest.param(b"Hello, world!", id="2.2"),
        pytest.param(b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", id="2.3"),
        pytest.param(MUCH, id="2.4"),
    ],
)
async def test_a_ping_is_answered_with_what_is_in_it(payload: bytes, peer: Peer) -> None:
    await send(peer, frame(PING, payload))
    assert await pong(peer) == payload
    await closes_well(peer)


@pytest.mark.parametrize("size", [pytest.param(126, id="2.5")])
async def test_a_ping_that_is_too_long_is_an_error(size: int, peer: Peer) -> None:
    await send(peer, frame(PING, bytes(size)))
    assert await closed_with(peer) == PROTOCOL_ERROR


@pytest.mark.parametrize("payload", [pytest.param(MUCH, id="2.6")])
async def test_a_ping_byte_by_byte_is_answered(payload: bytes, peer: Peer) -> None:
    await send(peer, *octets(frame(PING, payload)))
    assert await pong(peer) == payload
    await closes_well(peer)


@pytest.mark.parametrize(
    "payload", [pytest.param(b"", id="2.7"), pytest.param(b"unsolicited", id="2.8")]
)
async def test_a_pong_that_nobody_asked_for_is_ignored(payload: bytes, peer: Peer) -> None:
    await send(peer, frame(PONG, payload))
    await closes_well(peer)


@pytest.mark.parametrize("payload", [pytest.param(b"unsolicited", id="2.9")])
async def test_a_ping_after_such_a_pong_is_answered(payload: bytes, peer: Peer) -> None:
    await send(peer, frame(PONG, payload), frame(PING, b"ping"))
    assert await pong(peer) == b"ping"
    await closes_well(peer)


@pytest.mark.parametrize("by", [pytest.param("frame", id="2.10"), pytest.param("byte", id="2.11")])
async def test_ten_pings_are_answered_in_order(by: str, peer: Peer) -> None:
    payloads = [b"ping %d" % number for number in range(10)]
    frames = [frame(PING, payload) for payload in payloads]
    await send(peer, *(frames if by == "frame" else octets(b"".join(frames))))
    assert [await pong(peer) for _ in payloads] == payloads
    await closes_well(peer)


# 3 and 4: bits and opcodes that mean nothing


VIOLATIONS = [
    pytest.param(frame(TEXT, message(), reserved=1), id="3.1"),
    pytest.param(frame(BINARY, b"\x00\xff", reserved=5), id="3.5"),
    pytest.param(frame(PING, b"ping", reserved=6), id="3.6"),
    pytest.param(frame(CLOSE, b"\x03\xe8", reserved=7), id="3.7"),
    pytest.param(frame(3), id="4.1.1"),
    pytest.param(frame(4, b"reserved"), id="4.1.2"),
    pytest.param(frame(11), id="4.2.1"),
    pytest.param(frame(12, b"reserved"), id="4.2.2"),
]


@pytest.mark.parametrize("violation", VIOLATIONS)
async def test_what_is_reserved_is_an_error(violation: bytes, peer: Peer) -> None:
    await send(peer, violation)
    assert await closed_with(peer) == PROTOCOL_ERROR


AFTER_A_MESSAGE = [
    pytest.param(frame(TEXT, message(), reserved=2), False, id="3.2"),
    pytest.param(frame(TEXT, message(), reserved=3), False, id="3.3"),
    pytest.param(frame(TEXT, message(), reserved=4), True, id="3.4"),
    pytest.param(frame(5), False, id="4.1.3"),
    pytest.param(frame(6, b"reserved"), False, id="4.1.4"),
    pytest.param(frame(7, b"reserved"), True, id="4.1.5"),
    pytest.param(frame(13), False, id="4.2.3"),
    pytest.param(frame(14, b"reserved"), False, id="4.2.4"),
    pytest.param(frame(15, b"reserved"), True, id="4.2.5"),
]


@pytest.mark.parametrize(("violation", "by_byte"), AFTER_A_MESSAGE)
async def test_what_is_reserved_is_an_error_after_a_message_too(
    violation: bytes, by_byte: bool, peer: Peer
) -> None:
    await send(peer, frame(TEXT, message("before")))
    assert await echo(peer) == "before"
    more = [violation, frame(PING, b"not answered any more")]
    await send(peer, *(octets(b"".join(more)) if by_byte else more))
    assert await closed_with(peer) == PROTOCOL_ERROR


@pytest.mark.parametrize("violation", [VIOLATIONS[0], VIOLATIONS[4], VIOLATIONS[6]])
async def test_what_comes_with_an_error_in_one_write_is_not_followed_by_anything(
    violation: bytes, peer: Peer
) -> None:
    # Whether the message before it is answered is up to the server ("non-strict").
    await send(peer, frame(TEXT, message("before")) + violation + frame(PING))
    opcode, payload = await peer.raw_frame()
    if opcode == TEXT:
        assert json.loads(payload) == {"type": "pong", "request_id": "before"}
        opcode, payload = await peer.raw_frame()
    assert (opcode, payload[:2]) == (CLOSE, PROTOCOL_ERROR.to_bytes(2, "big"))
    assert await peer.rest() == b""


@pytest.mark.parametrize("opcode", [TEXT, PING, CLOSE])
async def test_a_frame_without_a_mask_is_an_error(opcode: int, peer: Peer) -> None:
    # RFC 6455, section 5.1; no case of the suite, whose frames all are masked.
    await send(peer, bytes((0x80 | opcode, 0)))
    assert await closed_with(peer) == PROTOCOL_ERROR
