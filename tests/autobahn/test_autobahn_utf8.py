"""UTF-8: cases 6 of the Autobahn test suite."""

import json
from itertools import accumulate

import pytest

from tests.autobahn.talk import (
    NOT_UTF8,
    TEXT,
    closed_with,
    closes_well,
    echo,
    fragments,
    frame,
    message,
    octets,
    send,
)
from tests.gateway.peers import Peer

KOSME = "κόσμε".encode()
INVALID = bytes.fromhex("cebae1bdb9cf83cebcceb5eda080656469746564")
MIXED = "Hello-µ@ßöäüàá-UTF-8!!".encode()

# By group of cases, the first being 6.5: in order, what is valid and what is not.
VALID = {
    5: ["hello$world", "hello¢world", "hello€world", "hello𤭢world", KOSME.decode()],
    7: ["\x00", "\x80", "\u0800", "\U00010000"],
    9: ["\x7f", "\u07ff", "\uffff", "\U0010ffff"],
    11: ["\ud7ff", "\ue000", "\ufffd", "\U0010ffff"],
    22: [chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF)],
    23: [chr(code) for code in range(0xFFF9, 0x10000)],
}
LONELY = [(0xC0, 0xDF), (0xE0, 0xEF), (0xF0, 0xF7), (0xF8, 0xFB), (0xFC, 0xFD)]
UNENDED = "c0 e080 f08080 f8808080 fc80808080 df efbf f7bfbf fbbfbfbf fdbfbfbfbf"
BROKEN = {
    8: "f888808080 fc8480808080",
    10: "f7bfbfbf fbbfbfbfbf fdbfbfbfbfbf",
    12: "f4908080",
    14: "80 bf 80bf 80bf80 80bf80bf 80bf80bf80 80bf80bf80bf " + bytes(range(0x80, 0xBF)).hex(),
    15: " ".join(bytes(b for c in range(a, z) for b in (c, 0x20)).hex() for a, z in LONELY),
    16: UNENDED,
    17: UNENDED.replace(" ", ""),
    18: "fe ff fefeffff",
    19: "c0af e080af f08080af f8808080af fc80808080af",
    20: "c1bf e09fbf f08fbfbf f887bfbfbf fc83bfbfbfbf c080 e08080 f0808080 f880808080 fc8080808080",
    21: "eda080 edadbf edae80 edafbf edb080 edbe80 edbfbf eda080edb080 eda080edbfbf edadbfedb080"
    " edadbfedbfbf edae80edb080 edae80edbfbf edafbfedb080 edafbfedbfbf",
}
VALID_CASES = [
    pytest.param(text, id=f"6.{group}.{number}")
    for group, texts in VALID.items()
    for number, text in enumerate(texts, 1)
]
BROKEN_CASES = [
    pytest.param(bytes.fromhex(text), id=f"6.{group}.{number}")
    for group, texts in BROKEN.items()
    for number, text in enumerate(texts.split(), 1)
]
PREFIXES = list(accumulate(octets(KOSME)))


def is_whole(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([b""], id="6.1.1"),
        pytest.param([b"", b"", b""], id="6.1.2"),
    ],
)
async def test_empty_text_is_text(pieces: list[bytes], peer: Peer) -> None:
    await send(peer, *fragments(TEXT, pieces))
    assert (await peer.frame())["type"] == "error"
    await closes_well(peer)


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([b"", message(), b""], id="6.1.3"),
        pytest.param([message(MIXED)], id="6.2.1"),
        pytest.param([message(MIXED)[:45], message(MIXED)[45:]], id="6.2.2"),
        pytest.param(octets(message(MIXED)), id="6.2.3"),
        pytest.param(octets(message(KOSME)), id="6.2.4"),
    ],
)
async def test_text_may_be_cut_anywhere(pieces: list[bytes], peer: Peer) -> None:
    await send(peer, *fragments(TEXT, pieces))
    assert await echo(peer) == json.loads(b"".join(pieces))["request_id"]
    await closes_well(peer)


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([INVALID], id="6.3.1"),
        pytest.param(octets(INVALID), id="6.3.2"),
        pytest.param([INVALID[:11], INVALID[11:14], INVALID[14:]], id="6.4.1"),
        pytest.param([KOSME + b"\xf4", b"\x90", b"\x80\x80edited"], id="6.4.2"),
        pytest.param([INVALID[:12], INVALID[12:]], id="6.4.3"),
        pytest.param([KOSME + b"\xf4\x90", b"\x80\x80edited"], id="6.4.4"),
    ],
)
async def test_what_is_not_utf8_is_closed_with_1007(pieces: list[bytes], peer: Peer) -> None:
    # At the end of the message at the latest, which the suite calls non-strict for 6.4.
    await send(peer, *fragments(TEXT, pieces))
    assert await closed_with(peer) == NOT_UTF8


@pytest.mark.parametrize(
    "text", [pytest.param(text, id=f"6.6.{number}") for number, text in enumerate(PREFIXES, 1)]
)
async def test_of_all_beginnings_those_of_whole_characters_are_text(
    text: bytes, peer: Peer
) -> None:
    await send(peer, frame(TEXT, message(text)))
    if is_whole(text):
        assert await echo(peer) == text.decode()
        await closes_well(peer)
    else:
        assert await closed_with(peer) == NOT_UTF8


@pytest.mark.parametrize("text", VALID_CASES)
async def test_every_character_is_text(text: str, peer: Peer) -> None:
    await send(peer, frame(TEXT, message(text)))
    answer = await peer.frame()
    # JSON has NUL escaped only, so as it stands it is a mistake (RFC 8259, section 7).
    assert answer["type"] == ("error" if text == "\0" else "pong")
    assert answer.get("request_id", "\0") == text
    await closes_well(peer)


@pytest.mark.parametrize("text", BROKEN_CASES)
async def test_what_is_no_character_is_closed_with_1007(text: bytes, peer: Peer) -> None:
    await send(peer, frame(TEXT, message(text)))
    assert await closed_with(peer) == NOT_UTF8
