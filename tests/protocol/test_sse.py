"""Events come out whole, wherever the bytes are cut."""

import json
import time
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.sse import Decoder, EventTooLong, comment, encode


def feed(decoder: Decoder, pieces: Iterable[bytes]) -> list[bytes]:
    return [event for piece in pieces for event in decoder.feed(piece)]


def decode(*pieces: bytes) -> list[bytes]:
    return feed(Decoder(), pieces)


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: one\n\n", [b"one"]),
        (b"data: one\n\ndata: two\n\n", [b"one", b"two"]),
        (b"data: one\r\n\r\ndata: two\r\n\r\n", [b"one", b"two"]),
        (b"data: one\r\n\ndata: two\n\r\n", [b"one", b"two"]),
        (b"data:without a space\n\n", [b"without a space"]),
        (b"data:  of two spaces one stays\n\n", [b" of two spaces one stays"]),
        (b"data: one\ndata: two\ndata:\n\n", [b"one\ntwo\n"]),
        (b"data\n\n", [b""]),
        (b"data:\n\n", [b""]),
        (b": a comment\n\n:\nid: 7.1.57\nevent: token\nretry: 1\ndata: one\n\n", [b"one"]),
        (b"database: no\n data: no\ndata: one\n\n", [b"one"]),
        (b"id: 1\n\n\n\n", []),
        (b"\xef\xbb\xbfdata: one\n\n", [b"one"]),
        (b"data: one\n\n\xef\xbb\xbfdata: not at the start\n\n", [b"one"]),
        (b"data: a lone\rCR stays\n\n", [b"a lone\rCR stays"]),
        (b"data: unfinished\n", []),
        (b"", []),
    ],
)
def test_a_stream_means_the_same_wherever_it_is_cut(stream: bytes, events: list[bytes]) -> None:
    assert decode(stream) == events
    for size in range(1, len(stream) + 1):
        assert decode(*cut(stream, size)) == events


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_lf_and_crlf_end_a_line(separator: str) -> None:
    event = f"one{separator}two".encode()
    stream = b"data: " + event + b"\n\n"
    assert decode(stream) == [event]
    assert decode(stream + stream) == [event, event]


def test_what_looks_like_an_event_may_be_the_end_of_a_line() -> None:
    assert decode(b": a comment, ", b"data: no\n\n") == []
    assert decode(b"data: one, ", b"data: one more\n\n") == [b"one, data: one more"]


lines = st.binary(max_size=20).map(lambda line: line.replace(b"\n", b""))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([b"data: ", b"data:", b": ", b"", b"id: "]), lines)),
    st.lists(st.integers(0, 400)),
    st.sampled_from([b"\n", b"\r\n"]),
)
def test_cuts_change_nothing(
    written: list[tuple[bytes, bytes]], places: list[int], ending: bytes
) -> None:
    stream = b"".join(name + line + ending for name, line in written)
    places = sorted({0, *places})
    pieces = [stream[a:b] for a, b in zip(places, [*places[1:], None], strict=True)]
    assert decode(*pieces) == decode(stream) == decode(*cut(stream, 1))


@settings(deadline=None)
@given(st.recursive(st.text() | st.integers(), st.lists), st.integers(1, 9))
def test_what_encode_writes_decodes_to_itself(value: object, size: int) -> None:
    data = json.dumps(value, ensure_ascii=False)
    stream = encode(data, id="7.1.end") + comment("alive") + encode(data)
    assert decode(*cut(stream, size)) == [data.encode()] * 2


def test_the_wire_is_exact() -> None:
    assert encode('{"a":"안"}') == 'data: {"a":"안"}\n\n'.encode()
    assert encode("{}", id="7.1.57") == b"id: 7.1.57\ndata: {}\n\n"
    assert comment("ping") == b": ping\n\n"


@pytest.mark.parametrize("broken", ["a\nb", "a\r", "\n"])
def test_a_line_break_cannot_smuggle_in_a_field(broken: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        encode(broken)
    with pytest.raises(ValueError, match="line break"):
        encode("{}", id=broken)
    with pytest.raises(ValueError, match="line break"):
        comment(broken)


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize(
    "stream",
    [
        b"data: " + b"x" * 100 + b"\n\n",
        b"x" * 101,
        b": " + b"x" * 100 + b"\n",
        b"data: " + b"x" * 60 + b"\ndata: " + b"x" * 60 + b"\n\n",
        b"data:\n" * 200,
    ],
    ids=["one event", "no end of line", "a comment", "many lines", "empty lines"],
)
def test_what_is_too_long_is_refused_wherever_it_is_cut(stream: bytes, size: int) -> None:
    with pytest.raises(EventTooLong) as caught:
        feed(Decoder(max_event_bytes=100), cut(stream, size))
    assert caught.value.limit == 100


@pytest.mark.parametrize("size", [1, 1000])
def test_what_fits_exactly_is_taken(size: int) -> None:
    stream = b"data: " + b"x" * 94 + b"\n\n"
    events = feed(Decoder(max_event_bytes=100), cut(stream, size) * 3)
    assert events == [b"x" * 94] * 3


@pytest.mark.parametrize(("length", "size"), [(4_000_000, 10), (1_000_000, 1)])
def test_a_long_line_in_small_pieces_takes_linear_time(length: int, size: int) -> None:
    pieces = cut(b"data: " + b"x" * length + b"\n\n", size)
    began = time.process_time()
    assert decode(*pieces) == [b"x" * length]
    # Copying the line with every piece would be some 10^12 bytes: minutes, not seconds.
    assert time.process_time() - began < 10
