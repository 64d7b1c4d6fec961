"""What the cases of the Autobahn test suite have in common, adapted to a server with no echo.

A text message is a `ping` of the wire contract, and its echo the `pong` with the same
`request_id`; a binary message is closed with 1003. The numbers of the cases are those of
https://github.com/crossbario/autobahn-testsuite, the words and the code are ours.
"""

import json
import os
from collections.abc import Iterable

from anyio.lowlevel import checkpoint

from tests.gateway.peers import CLOSE, PONG, Peer
from tests.hostile.attackers import length_of

CONTINUATION, TEXT, BINARY = 0, 1, 2
NORMAL, PROTOCOL_ERROR, UNSUPPORTED, NOT_UTF8, TOO_LARGE = 1000, 1002, 1003, 1007, 1009


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0) -> bytes:
    """One frame of a client, masked as RFC 6455, section 5.3, says."""
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    return bytes((first,)) + length_of(len(payload)) + mask + masked


def fragments(opcode: int, pieces: Iterable[bytes]) -> list[bytes]:
    """The frames of a message in pieces (section 5.4)."""
    *first, last = pieces
    opcodes = [opcode, *[CONTINUATION] * len(first)]
    frames = [frame(code, piece, fin=False) for code, piece in zip(opcodes, first, strict=False)]
    return [*frames, frame(opcodes[-1], last)]


def message(request_id: str | bytes = "r1", *, size: int = 0) -> bytes:
    """A text message that is answered, padded to so many bytes."""
    request_id = request_id.encode() if isinstance(request_id, str) else request_id
    return (b'{"type":"ping","request_id":"%b"}' % request_id).ljust(size)


def close(code: int | None = NORMAL, reason: bytes = b"") -> bytes:
    """A close frame."""
    return frame(CLOSE, (b"" if code is None else code.to_bytes(2, "big")) + reason)


def octets(data: bytes) -> list[bytes]:
    """Single bytes."""
    return [bytes((byte,)) for byte in data]


async def send(peer: Peer, *pieces: bytes) -> None:
    """Send each piece in a write of its own, which the gateway reads before the next comes."""
    for piece in pieces:
        await peer.send(piece)
        await checkpoint()


async def echo(peer: Peer) -> str:
    """Read the answer to a message; return its `request_id`."""
    opcode, payload = await peer.raw_frame()
    assert opcode == TEXT
    answer = json.loads(payload)
    assert answer["type"] == "pong", answer
    request_id: str = answer["request_id"]
    return request_id


async def pong(peer: Peer) -> bytes:
    """Read a pong; return what is in it."""
    opcode, payload = await peer.raw_frame()
    assert opcode == PONG
    return payload


async def closed_with(peer: Peer) -> int | None:
    """Read a close frame, and the end of the connection; return the code, None without one."""
    opcode, payload = await peer.raw_frame()
    assert opcode == CLOSE, (opcode, payload)
    assert len(payload) <= 125
    peer.close_sending()
    assert await peer.rest() == b""
    return int.from_bytes(payload[:2], "big") if payload else None


async def closes_well(peer: Peer) -> None:
    """Close in good order: all is as it was before."""
    await send(peer, frame(TEXT, message("last")))
    assert await echo(peer) == "last"
    await send(peer, close())
    assert await closed_with(peer) == NORMAL
