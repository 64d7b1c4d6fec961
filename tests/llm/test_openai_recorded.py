"""Every reply that was recorded from two real OpenAI-compatible engines, cut in every way.

What to expect is computed here a second time, naively, from the recorded bytes; and written down
by hand for the recordings that are worth a sentence.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from llm.client import (
    ContextExceeded,
    Ending,
    Generation,
    PromptMessage,
    UpstreamFailed,
    UpstreamUnavailable,
    Usage,
)
from llm.openai import OpenAi
from tests.llm.replaying import (
    Cut,
    Outcome,
    cut_at_random,
    outcome_of,
    replaying,
    single_bytes,
    unchunked,
    whole,
)

WIRE = Path(__file__).parents[1] / "wire" / "openai"
ALL = sorted(path.stem for path in WIRE.glob("*.resp"))
CALLS = [name for name in ALL if not name.endswith((".models", ".health"))]
QUESTION = (PromptMessage("user", "안녕하세요!"),)


def recorded(name: str) -> bytes:
    return (WIRE / f"{name}.resp").read_bytes()


def is_stream(name: str) -> bool:
    return ".nonstream" not in name


# What to expect, the slow and simple way


def expected(name: str) -> Outcome:
    head, _, body = recorded(name).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        return "", ContextExceeded if b"context_length_exceeded" in body else UpstreamFailed
    return expected_stream(body) if is_stream(name) else expected_answer(json.loads(body))


def expected_stream(body: bytes) -> Outcome:
    whole = unchunked(body)
    lines = whole.replace(b"\r\n", b"\n").split(b"\n")
    events = [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
    choices = [event["choices"][0] for event in events if "choices" in event]
    said = [choice["delta"].get("content") or "" for choice in choices]
    reasons = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]
    if reasons:
        usage = next((Usage(**event["usage"]) for event in events if "usage" in event), None)
        return "".join(said), Ending(reasons[0], len(list(filter(None, said))), usage)
    cut = not body.endswith(b"0\r\n\r\n")
    return "".join(said), UpstreamUnavailable if cut else UpstreamFailed


def expected_answer(answer: dict[str, Any]) -> Outcome:
    choice = answer["choices"][0]
    text, usage = choice["message"]["content"], Usage(**answer["usage"])
    return text, Ending(choice["finish_reason"], 1 if text else 0, usage)


# Replays


async def replay(data: bytes, cut: Cut, ask: Any, *, model: str = "tiny") -> Any:
    async with replaying(data, cut) as url:
        engine = OpenAi(url, model=model)
        try:
            return await ask(engine)
        finally:
            await engine.aclose()


async def outcome(name: str, cut: Cut) -> Outcome:
    generation = Generation(max_new_tokens=256, temperature=0.7, do_sample=True)

    async def ask(engine: OpenAi) -> Outcome:
        call = engine.stream if is_stream(name) else engine.complete
        return await outcome_of(lambda say: call(QUESTION, generation, say))

    found: Outcome = await replay(recorded(name), cut, ask)
    return found


@pytest.mark.parametrize("name", CALLS)
async def test_a_recording_ends_as_its_bytes_say(name: str) -> None:
    for cut in (whole, cut_at_random):
        assert await outcome(name, cut) == expected(name)


@pytest.mark.parametrize("name", [name for name in CALLS if len(recorded(name)) < 2000])
async def test_a_recording_that_comes_byte_by_byte(name: str) -> None:
    assert await outcome(name, single_bytes) == expected(name)


HELLO = "안녕하세요! 저는 믿음 어시스턴트입니다. 무엇을 도와드릴까요?"
LLAMA, TRANSFORMERS = "llama_cpp_python", "transformers_serve"


@pytest.mark.parametrize(
    ("name", "text", "ending"),
    [
        (f"{LLAMA}.stream", HELLO, Ending("stop", 21)),
        (f"{TRANSFORMERS}.stream", HELLO, Ending("stop", 21, Usage(109, 33, 142))),
        (f"{LLAMA}.nonstream", HELLO, Ending("stop", 1, Usage(109, 32, 141))),
        (f"{LLAMA}.nonstream_in_overflow", "", ContextExceeded),
        (f"{LLAMA}.stream_in_overflow", "", UpstreamFailed),
        (f"{LLAMA}.stream_in_not_json", "", UpstreamFailed),
        (f"{TRANSFORMERS}.stream_in_max_zero", "", UpstreamFailed),
        (f"{TRANSFORMERS}.stream_in_overflow", "\n" * 5, Ending("length", 5, Usage(1607, 5, 1612))),
        (f"{TRANSFORMERS}.stream_maxtok1", "", Ending("length", 0, Usage(109, 1, 110))),
        (f"{TRANSFORMERS}.stream_empty", "", Ending("stop", 0, Usage(110, 1, 111))),
        (f"{TRANSFORMERS}.nonstream_in_wrong_model", "", UpstreamFailed),
        (f"{LLAMA}.stream_cjk", "漢字는 중국에서 왔고 日本語에서도 씁니다.", Ending("stop", 17)),
    ],
)
async def test_what_some_recordings_mean(name: str, text: str, ending: Any) -> None:
    assert await outcome(name, whole) == (text, ending)


@pytest.mark.parametrize("engine", [LLAMA, TRANSFORMERS])
async def test_a_cut_reply_keeps_its_text(engine: str) -> None:
    text, ending = await outcome(f"{engine}.client_abort", whole)
    assert text.startswith("옛날 옛")
    assert ending is UpstreamUnavailable


@pytest.mark.parametrize(
    ("name", "model", "healthy"),
    [
        (f"{LLAMA}.models", "", True),
        (f"{LLAMA}.models", "tiny", True),
        (f"{LLAMA}.models", "other", False),
        (f"{TRANSFORMERS}.models", "tiny-midm-llm1", True),  # it lists none, and serves one
        (f"{TRANSFORMERS}.models", "", False),
        (f"{LLAMA}.health", "tiny", False),
        (f"{TRANSFORMERS}.health", "", False),
    ],
)
@pytest.mark.parametrize("cut", [whole, single_bytes, cut_at_random])
async def test_a_recorded_list_of_models(name: str, model: str, healthy: bool, cut: Cut) -> None:
    asked = await replay(recorded(name), cut, lambda engine: engine.healthy(), model=model)
    assert asked is healthy


def test_nothing_recorded_is_left_out() -> None:
    assert len(CALLS) == 76
    assert len(ALL) == 80
