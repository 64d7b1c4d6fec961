"""Requests that come slowly, never end, or are far too large."""

import pytest

from tests.hostile.attackers import (
    at_once,
    everything,
    keep_reading,
    pour,
    send,
    strangers,
    trickle,
)
from tests.hostile.siege import Siege

PEERS = 20
LINE = b"POST /api/sessions HTTP/1.1\r\nHost: x\r\n"
NOWHERE = b"POST /nowhere HTTP/1.1\r\nHost: x\r\n"
DECLARED = b"Content-Type: application/json\r\nContent-Length: 1000000000000\r\n\r\n"
CHUNKED = b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
REQUESTS = b"GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n" * 20_000
A_MB = b"x" * 1_000_000
FOR_S = 1.0


@pytest.mark.parametrize(
    ("begun", "more"),
    [
        pytest.param(b"", b"G", id="a method"),
        pytest.param(b"GET /", b"x", id="a path"),
        pytest.param(b"GET / HTTP/1.1\r\n", b"X: y\r\n", id="lines"),
        pytest.param(b"GET / HTTP/1.1\r\nX: ", b"y", id="one line"),
        pytest.param(b"", b"\r\n", id="line breaks"),
        pytest.param(LINE + DECLARED, b" ", id="a body"),
        pytest.param(NOWHERE + DECLARED, b" ", id="a body that nobody wants"),
        pytest.param(LINE + CHUNKED, b"1\r\n \r\n", id="chunks"),
        pytest.param(LINE + CHUNKED + b"0\r\n", b"X: y\r\n", id="lines after a body"),
        pytest.param(LINE + CHUNKED + b"1;", b"x", id="an extension of a chunk"),
    ],
)
async def test_what_comes_slowly_without_end_is_not_waited_for(
    begun: bytes, more: bytes, siege: Siege
) -> None:
    async with siege.undisturbed(peers=PEERS), strangers(siege.url, PEERS) as peers:
        await at_once((send, peer, begun) for peer in peers)
        await at_once((trickle, peer, more) for peer in peers)


@pytest.mark.parametrize(
    ("begun", "more"),
    [
        pytest.param(b"GET /", A_MB, id="a path"),
        pytest.param(b"GET / HTTP/1.1\r\n", b"X: y\r\n" * 100_000, id="lines"),
        pytest.param(b"GET / HTTP/1.1\r\nX: ", A_MB, id="one line"),
        pytest.param(b"GET / HTTP/1.1\r\n", A_MB, id="the name of a line"),
        pytest.param(b"", b"\r\n" * 500_000, id="line breaks"),
        pytest.param(LINE + DECLARED, A_MB, id="a body"),
        pytest.param(NOWHERE + DECLARED, A_MB, id="a body that nobody wants"),
        pytest.param(LINE + CHUNKED, b"1\r\nx\r\n" * 100_000, id="chunks"),
        pytest.param(NOWHERE + CHUNKED, b"1\r\nx\r\n" * 100_000, id="chunks that nobody wants"),
        pytest.param(NOWHERE + CHUNKED + b"0\r\n", b"X: y\r\n" * 100_000, id="lines after a body"),
        pytest.param(NOWHERE + CHUNKED + b"0\r\nX: ", A_MB, id="one line after a body"),
        pytest.param(NOWHERE + CHUNKED + b"1;", A_MB, id="an extension of a chunk"),
        pytest.param(b"", REQUESTS, id="requests"),
        pytest.param(
            b"",
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" * 100,
            id="wishes for another protocol",
        ),
    ],
)
async def test_what_comes_fast_without_end_is_not_taken_in(
    begun: bytes, more: bytes, siege: Siege
) -> None:
    async with siege.undisturbed(peers=1), strangers(siege.url, 1) as [peer]:
        await send(peer, begun)
        await pour(peer, more, FOR_S)


async def test_requests_do_not_pile_up_whose_answers_are_read(siege: Siege) -> None:
    async with siege.undisturbed(peers=1), strangers(siege.url, 1) as [peer]:
        await at_once([(pour, peer, REQUESTS, FOR_S), (keep_reading, peer)])


@pytest.mark.parametrize(
    ("said", "status"),
    [
        pytest.param(b"GET /" + A_MB + b" HTTP/1.1\r\n\r\n", b"414", id="a request line of 1 MB"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000, b"431", id="100,000 lines"),
        pytest.param(b"GET / HTTP/1.1\r\nX: " + A_MB * 100, b"431", id="a head of 100 MB"),
    ],
)
async def test_who_asks_too_much_is_told_so(said: bytes, status: bytes, siege: Siege) -> None:
    async with siege.undisturbed(peers=1), strangers(siege.url, 1) as [peer]:
        # Whoever goes on sending is heard out for a while, or would lose the answer to a reset.
        await send(peer, said)
        assert (await everything(peer)).startswith(b"HTTP/1.1 " + status)
