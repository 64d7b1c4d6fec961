"""The bytes of midm's replies, as they were recorded.

`start` and `error` are ASCII, everything else is raw UTF-8; events have a space after comma and
colon, the bodies of `/chat` and `/health` have none.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

START = b'data: {"type": "start", "message": "Stream started"}\n\n'
DONE = b"data: [DONE]\n\n"

STREAM_HEADERS = (
    (b"cache-control", b"no-cache"),
    (b"connection", b"keep-alive"),
    (b"x-accel-buffering", b"no"),
    (b"content-type", b"text/event-stream; charset=utf-8"),
)

HEALTH = {
    "status": "healthy",
    "model_loaded": True,
    "embedding_model_loaded": True,
    "embedding_dimensions": 768,
    "device": "cpu",
    "cuda_available": False,
}

JUNK = (
    b": still here\n\n",
    b"data: this is not JSON\n\n",
    b'data: [1, "two", null]\n\n',
    b'data: {"type": "usage", "content": "not for you"}\n\n',
    b"data: null\n\n",
    b'event: ping\nid: 7\nretry: 1000\ndata: {"token_count": 1}\n\n',
    b'data: {"type": "chunk", "content": "torn\n\n',
    b'data: {"type": 5}\n\n',
)


def chunk_events(pieces: Sequence[str]) -> Iterator[bytes]:
    """The `chunk` event of each piece."""
    # Escaping goes character by character, so what was escaped before stays escaped: `accumulated`
    # costs a copy for each event and never a second encoding.
    accumulated = b""
    for count, piece in enumerate(pieces, 1):
        content = _escaped(piece)
        accumulated += content
        yield (
            b'data: {"type": "chunk", "content": "%b", "accumulated": "%b", "token_count": %d}\n\n'
            % (content, accumulated, count)
        )


def complete_event(pieces: Sequence[str]) -> bytes:
    """The `complete` event of a reply that was said in these pieces."""
    return b'data: {"type": "complete", "full_response": "%b", "total_tokens": %d}\n\n' % (
        _escaped("".join(pieces)),
        len(pieces),
    )


def error_event(message: str) -> bytes:
    """The `error` event; midm's message is often empty."""
    return b'data: {"type": "error", "message": %b}\n\n' % json.dumps(message).encode()


def json_body(value: Any) -> bytes:
    """A compact JSON body; what UTF-8 cannot hold becomes a question mark."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def cut_inside_characters(event: bytes) -> list[bytes]:
    """The event in parts, cut inside its first and its last character of several bytes."""
    inside = [index for index, byte in enumerate(event) if byte & 0xC0 == 0x80]
    cuts = [inside[0], inside[-1]] if inside else [len(event) // 2]
    bounds = [0, *dict.fromkeys(cuts), len(event)]
    return [event[start:end] for start, end in pairwise(bounds)]


def _escaped(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False)[1:-1].encode()
