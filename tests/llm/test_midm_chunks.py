"""What is read of a chunk, and what is left to a parser."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.midm_chunks import Chunks
from llm.midm_reply import MidmReply

WIRE = Path(__file__).parents[1] / "wire" / "midm"
TRICKY = ['"', "\\", '", "accumulated": "', '", "token_count": 7}', '{"type": "chunk", ', "\u2028"]
texts = st.lists(st.sampled_from(TRICKY) | st.text(max_size=5)).map("".join)


def chunk(content: str, so_far: str, count: int, *, ascii_only: bool = False) -> bytes:
    fields = {"content": content, "accumulated": so_far, "token_count": count}
    whole = json.dumps({"type": "chunk", **fields}, ensure_ascii=ascii_only)
    return f"data: {whole}\n\n".encode("utf-8", "surrogatepass")


@settings(deadline=None)
@given(st.lists(texts), st.booleans())
def test_every_chunk_of_a_reply_is_read_without_parsing_what_it_repeats(
    pieces: list[str], ascii_only: bool
) -> None:
    chunks, so_far = Chunks(), ""
    for count, piece in enumerate(pieces, 1):
        so_far += piece
        event = chunk(piece, so_far, count, ascii_only=ascii_only)
        assert chunks.read(event) == (piece, count, len(event))


@given(st.lists(texts, min_size=1))
def test_chunks_that_come_together_are_read_together(pieces: list[str]) -> None:
    so_far = ["".join(pieces[:count]) for count in range(len(pieces) + 1)]
    events = [chunk(piece, so_far[count], count) for count, piece in enumerate(pieces, 1)]
    data = b"".join(events)
    text, count, read = Chunks().read(data + b"data: [DONE]\n\n")
    assert (text, count, read) == (so_far[-1], len(pieces), len(data))


RECORDED = [path for path in sorted(WIRE.glob("stream_*.resp")) if b'"chunk"' in path.read_bytes()]


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_so_is_every_chunk_that_was_recorded(path: Path) -> None:
    chunks = Chunks()
    for data in re.findall(rb"data: \{.*?\}\n\n", path.read_bytes()):
        event = json.loads(data.removeprefix(b"data: "))
        if event["type"] == "chunk":
            assert chunks.read(data) == (event["content"], event["token_count"], len(data))


values = st.recursive(
    texts | st.integers() | st.booleans() | st.none(),
    lambda inner: st.lists(inner) | st.dictionaries(texts | st.just("accumulated"), inner),
)
members = st.tuples(
    st.sampled_from(["type", "content", "accumulated", "token_count", "x"]),
    values | st.sampled_from(["chunk", {"accumulated": "a", "token_count": 1}]),
)


@settings(deadline=None)
@given(st.lists(members), st.sampled_from([(", ", ": "), (",", ":"), (" , ", " : ")]))
def test_an_object_that_is_read_is_what_json_says_it_is(
    more: list[tuple[str, Any]], separators: tuple[str, str]
) -> None:
    comma, colon = separators
    pairs = [("content", "a"), ("accumulated", "a"), *more, ("token_count", 3)]
    written = [json.dumps(k) + colon + json.dumps(v, separators=separators) for k, v in pairs]
    event = f'{{"type"{colon}"chunk"{comma}' + comma.join(written) + "}"
    data = f"data: {event}\n\n".encode()
    whole = json.loads(event)
    assert Chunks().read(data) in [("", 0, 0), (whole["content"], whole["token_count"], len(data))]


@pytest.mark.parametrize(
    "event",
    [
        b"data: [DONE]\n\n",
        b'data: {"type": "start"}\n\n',
        chunk("b", "xb", 2),
        chunk("b", "abc", 2),
        chunk("b", "a", 2),
        chunk("b", "ab", -1),
        chunk("b", "ab", 10**9),
        chunk("b", "ab", 2)[:-1],
        chunk("b", "ab", 2)[1:],
        b" " + chunk("b", "ab", 2),
        chunk("b", "ab", 2).replace(b"\n\n", b"\r\n\r\n"),
        chunk("b", "ab", 2).replace(b"2}", b"2.0}"),
        chunk("b", "ab", 2).replace(b"b", b"\xff"),
        chunk("b", "ab", 2).replace(b"b", b"\n"),
        chunk("b", "ab", 2).replace(b"b", b"\\x"),
    ],
)
def test_what_is_not_exactly_the_next_chunk_is_left_to_a_parser(event: bytes) -> None:
    chunks = Chunks()
    first, second = chunk("a", "a", 1), chunk("b", "ab", 2)
    assert chunks.read(first + event) == ("a", 1, len(first))
    assert chunks.read(event) == ("", 0, 0)
    assert chunks.read(second) == ("b", 2, len(second))


def test_lines_that_are_one_event_together_are_no_chunk() -> None:
    said: list[str] = []
    reply = MidmReply(lambda text, _: said.append(text), max_new_tokens=9, max_chars=99)
    line = chunk("a", "a", 1).removesuffix(b"\n\n")
    reply.hear(line + b"\ndata:\ndata: and more\n\n")
    assert (said, reply.ignored) == ([], 1)
