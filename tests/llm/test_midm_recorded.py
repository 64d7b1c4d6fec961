"""Every reply that was recorded from the real model server, cut in every way, through the driver.

What to expect is computed here a second time, naively, from the recorded bytes; and written down
by hand for the recordings that are worth a sentence.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from llm.client import (
    Ending,
    Generation,
    PromptMessage,
    UpstreamFailed,
    UpstreamUnavailable,
    Usage,
)
from llm.midm import Midm
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

WIRE = Path(__file__).parents[1] / "wire" / "midm"
KINDS = ("stream_", "chat_", "slow_", "two_", "hang_", "token_gap_", "server_")
CALLS = sorted(path.stem for path in WIRE.glob("*.resp") if path.name.startswith(KINDS))
HEALTH_CHECKS = sorted(path.stem for path in WIRE.glob("health*.resp"))
QUESTION = (PromptMessage("user", "안녕하세요!"),)
MAX_NEW_TOKENS = 256


def recorded(name: str) -> bytes:
    return (WIRE / f"{name}.resp").read_bytes()


def is_stream(name: str) -> bool:
    return "chat" not in name


# What to expect, the slow and simple way


def expected(name: str) -> Outcome:
    head, _, body = recorded(name).partition(b"\r\n\r\n")
    if not head:
        return "", UpstreamUnavailable
    if not head.startswith(b"HTTP/1.1 200 "):
        return "", UpstreamFailed
    return expected_stream(body) if is_stream(name) else expected_answer(json.loads(body))


def expected_stream(body: bytes) -> Outcome:
    lines = re.findall(rb"^data: (\{.*\})$", unchunked(body), re.MULTILINE)
    events = [json.loads(line) for line in lines]
    text = "".join(event["content"] for event in events if event["type"] == "chunk")
    match events[-1]:
        case {"type": "complete", "total_tokens": total}:
            return text, Ending("length" if total >= MAX_NEW_TOKENS else "stop", total)
        case {"type": "error"}:
            return text, UpstreamFailed
    return text, UpstreamFailed if body.endswith(b"\r\n0\r\n\r\n") else UpstreamUnavailable


def expected_answer(answer: dict[str, Any]) -> Outcome:
    text, usage = answer["response"], Usage(**answer["usage"])
    reason = usage.completion_tokens >= MAX_NEW_TOKENS
    return text, Ending("length" if reason else "stop", 1 if text else 0, usage)


# Replays


async def replay(data: bytes, cut: Cut, ask: Any) -> Any:
    async with replaying(data, cut) as url:
        midm = Midm(url)
        try:
            return await ask(midm)
        finally:
            await midm.aclose()


async def outcome(name: str, cut: Cut, *, max_new_tokens: int = MAX_NEW_TOKENS) -> Outcome:
    generation = Generation(max_new_tokens=max_new_tokens, temperature=0.7, do_sample=True)

    async def ask(midm: Midm) -> Outcome:
        call = midm.stream if is_stream(name) else midm.complete
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
LIST = "좋습니다.\n\n1. 첫째 항목\n2. 둘째 항목\n3. 셋째 항목\n\n끝입니다."
TIGER = "옛날 옛적 깊은 산속에 "


@pytest.mark.parametrize(
    ("name", "text", "ending"),
    [
        ("stream_ok_ko", HELLO, Ending("stop", 6)),
        ("chat_ok_ko", HELLO, Ending("stop", 1, Usage(76, 33, 109))),
        ("stream_ok_empty_answer", "", Ending("stop", 0)),
        ("stream_in_context_overflow", "\n" * 5, Ending("stop", 5)),
        ("chat_in_context_overflow", "", Ending("stop", 0, Usage(574, 5, 579))),
        ("stream_http10", "Hello there! I am a tiny model running on a CPU.", Ending("stop", 11)),
        ("stream_ok_cleanup", "one  two  three  four  it s done do 't stop", Ending("stop", 14)),
        ("chat_ok_newlines", LIST, Ending("stop", 1, Usage(82, 35, 117))),
        ("token_gap_61s", "옛날 옛적 깊은 ", UpstreamFailed),
        ("hang_stream_max0", "", UpstreamFailed),
        ("stream_in_messages_empty", "", UpstreamFailed),
        ("stream_in_bad_utf8", "", UpstreamFailed),
        ("chat_slash", "", UpstreamFailed),
        ("chat_in_surrogate", "", UpstreamFailed),
        ("chat_client_abort", "", UpstreamUnavailable),
        ("stream_client_abort", TIGER, UpstreamUnavailable),
        ("server_killed_midstream", TIGER + "호랑이 한 마리가 살고 ", UpstreamUnavailable),
    ],
)
async def test_what_some_recordings_mean(name: str, text: str, ending: Any) -> None:
    assert await outcome(name, whole) == (text, ending)


@pytest.mark.parametrize(("name", "pieces"), [("stream_in_max_1", 1), ("stream_in_max_null", 5)])
async def test_a_reply_cut_by_its_limit(name: str, pieces: int) -> None:
    _, ending = await outcome(name, whole, max_new_tokens=pieces)
    assert ending == Ending("length", pieces)


@pytest.mark.parametrize("name", HEALTH_CHECKS)
@pytest.mark.parametrize("cut", [whole, single_bytes, cut_at_random])
async def test_a_recorded_health_check(name: str, cut: Cut) -> None:
    healthy = await replay(recorded(name), cut, lambda midm: midm.healthy())
    assert healthy is (name != "health_head")


def test_nothing_recorded_is_left_out() -> None:
    assert len(CALLS) > 80
    assert len(HEALTH_CHECKS) == 4
