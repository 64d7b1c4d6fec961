"""The quick way of reading chunks says what the slow way says, or leaves it to the slow way."""

import json
from typing import Any

import pytest

from llm.openai_chunks import Chunks
from llm.openai_reply import OpenAiReply
from tests.llm.scripted_openai import delta, event, piece

LLAMA = '{"choices":[{"finish_reason":null,"index":0,"delta":{"content":"a"}}],"id":"1"}'
SPACED = '{"id": "1", "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": null}]}'


def data(text: str, *, ends: str = "\n\n") -> bytes:
    return f"data: {text}{ends}".encode()


@pytest.mark.parametrize("frame", [LLAMA, SPACED])
@pytest.mark.parametrize("ends", ["\n\n", "\r\n\r\n"])
def test_the_same_again_but_for_its_text(frame: str, ends: str) -> None:
    chunks = Chunks()
    chunks.learn(frame.encode(), "a")
    texts = ["안녕", ' "\\', "\u2028\t", "😀", ""]
    more = [
        frame.replace('"a"', json.dumps(t, ensure_ascii=i % 2 > 0)) for i, t in enumerate(texts)
    ]
    both = b"".join(data(each, ends=ends) for each in more)
    assert chunks.read(both) == ("".join(texts), 4, len(both))


@pytest.mark.parametrize(
    "other",
    [
        LLAMA.replace('finish_reason":null', 'finish_reason":"stop"'),
        LLAMA.replace('"1"', '"2"'),
        LLAMA.replace('"a"', '"a","role":"assistant"'),
        LLAMA.replace('"a"', "null"),
        LLAMA.replace('"a"', '"\\x"'),
        LLAMA.replace('"a"', '"\\ud8"'),
        LLAMA.replace('"a"', '"\n"'),
        LLAMA[:-1],
    ],
)
def test_whatever_is_different_is_left(other: str) -> None:
    chunks = Chunks()
    chunks.learn(LLAMA.encode(), "a")
    same = data(LLAMA)
    assert chunks.read(same + data(other)) == ("a", 1, len(same))


def test_bytes_that_are_no_text_are_left() -> None:
    chunks = Chunks()
    chunks.learn(LLAMA.encode(), "a")
    assert chunks.read(data(LLAMA).replace(b'"a"', b'"\xff"')) == ("", 0, 0)


def test_nothing_is_known_before_something_was_learnt() -> None:
    assert Chunks().read(data(LLAMA)) == ("", 0, 0)


@pytest.mark.parametrize(
    "twofold",
    [
        '{"message":{"content":"a"},"choices":[{"delta":{"content":"a"}}]}',
        '{"choices":[{"delta":{"content":"b"}}]}',
        '{"choices":[{"delta":{"contents":"a"}}]}',
    ],
)
def test_a_frame_that_is_not_certain_is_not_learnt(twofold: str) -> None:
    chunks = Chunks()
    chunks.learn(twofold.encode(), "a")
    assert chunks.read(data(twofold)) == ("", 0, 0)


def heard(stream: bytes, size: int) -> tuple[str, Any]:
    said: list[str] = []
    reply = OpenAiReply(lambda text, _: said.append(text), max_chars=999)
    for at in range(0, len(stream), size):
        if not reply.over:
            reply.hear(stream[at : at + size])
    return "".join(said), reply.ending


def test_a_reply_is_the_same_however_it_is_cut() -> None:
    """A quote of the frame in a user's words is text like any other."""
    texts = ["안", '{"choices":[{"delta":{"content":"b"}}]}', "data: [DONE]\n\n"]
    stream = b"".join(map(piece, texts))
    stream += b"".join(piece("@").replace(b"@", t.encode()) for t in ("\\ud83d", "\\ude00"))
    stream += delta({"content": "!"}, "stop")
    stream += event({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
    results = {heard(stream, size) for size in (1, 2, 3, 7, 50, 100, 10_000)}
    [(text, ending)] = results
    assert text == "".join(texts) + "😀!"
    assert ending.total_pieces == 6
