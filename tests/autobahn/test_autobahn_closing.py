"""Closing: cases 7 of the Autobahn test suite."""

import pytest

from tests.autobahn.talk import (
    NORMAL,
    NOT_UTF8,
    PROTOCOL_ERROR,
    TEXT,
    close,
    closed_with,
    echo,
    fragments,
    frame,
    message,
    send,
)
from tests.gateway.peers import CLOSE, PING, Peer

HALVES = fragments(TEXT, [message()[:10], message()[10:]])
VALID = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999]
INVALID = [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999]


@pytest.mark.parametrize("_", [pytest.param(0, id="7.1.1")])
async def test_a_message_is_answered_before_the_close_frame_behind_it(_: int, peer: Peer) -> None:
    await send(peer, frame(TEXT, message()))
    assert await echo(peer) == "r1"
    await send(peer, close())
    assert await closed_with(peer) == NORMAL


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(close(), id="7.1.2"),
        pytest.param(frame(PING, b"too late"), id="7.1.3"),
        pytest.param(frame(TEXT, message()), id="7.1.4"),
    ],
)
async def test_behind_a_close_frame_nothing_counts(after: bytes, peer: Peer) -> None:
    await send(peer, close() + after)
    assert await closed_with(peer) == NORMAL


@pytest.mark.parametrize("_", [pytest.param(0, id="7.1.5")])
async def test_a_close_frame_among_fragments_ends_the_connection(_: int, peer: Peer) -> None:
    # It may come there (RFC 6455, section 5.4), and its code is typically echoed, not always.
    await send(peer, HALVES[0] + close() + HALVES[1])
    assert await closed_with(peer) in (NORMAL, PROTOCOL_ERROR)


@pytest.mark.parametrize("size", [pytest.param(256 * 1024, id="7.1.6")])
async def test_a_close_frame_behind_a_large_message_is_answered(size: int, peer: Peer) -> None:
    await send(peer, frame(TEXT, message(size=size)) + close() + frame(PING, b"too late"))
    opcode, payload = await peer.raw_frame()
    if opcode == TEXT:  # up to the server
        opcode, payload = await peer.raw_frame()
    assert (opcode, payload[:2]) == (CLOSE, NORMAL.to_bytes(2, "big"))
    assert await peer.rest() == b""


@pytest.mark.parametrize("_", [pytest.param(0, id="7.3.1")])
async def test_a_close_frame_without_a_code_is_echoed(_: int, peer: Peer) -> None:
    await send(peer, close(None))
    assert await closed_with(peer) is None


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(close(), id="7.3.3"),
        pytest.param(close(NORMAL, b"Hello World!"), id="7.3.4"),
        pytest.param(close(NORMAL, b"*" * 123), id="7.3.5"),
    ],
)
async def test_a_close_frame_is_echoed(said: bytes, peer: Peer) -> None:
    await send(peer, said)
    assert await closed_with(peer) == NORMAL


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(frame(CLOSE, b"a"), id="7.3.2"),
        pytest.param(close(NORMAL, b"*" * 124), id="7.3.6"),
    ],
)
async def test_a_close_frame_of_another_length_is_an_error(said: bytes, peer: Peer) -> None:
    await send(peer, said)
    assert await closed_with(peer) == PROTOCOL_ERROR


@pytest.mark.parametrize("reason", [pytest.param(b"\xce\xba\xed\xa0\x80", id="7.5.1")])
async def test_a_reason_that_is_not_utf8_is_an_error(reason: bytes, peer: Peer) -> None:
    await send(peer, close(NORMAL, reason))
    assert await closed_with(peer) in (PROTOCOL_ERROR, NOT_UTF8)


@pytest.mark.parametrize(
    "code", [pytest.param(code, id=f"7.7.{number}") for number, code in enumerate(VALID, 1)]
)
async def test_a_code_that_may_be_sent_is_echoed(code: int, peer: Peer) -> None:
    await send(peer, close(code))
    assert await closed_with(peer) == code


@pytest.mark.parametrize(
    "code",
    [
        *[pytest.param(code, id=f"7.9.{number}") for number, code in enumerate(INVALID, 1)],
        pytest.param(5_000, id="7.13.1"),
        pytest.param(65_535, id="7.13.2"),
        pytest.param(1_015, id="1015"),
    ],
)
async def test_a_code_that_may_not_be_sent_is_an_error(code: int, peer: Peer) -> None:
    await send(peer, close(code))
    assert await closed_with(peer) == PROTOCOL_ERROR
