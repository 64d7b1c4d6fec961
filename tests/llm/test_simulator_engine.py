"""The simulator's OpenAI-compatible wire, as the driver of such engines hears it."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio
import httpx
import pytest

from llm.client import (
    ContextExceeded,
    Ending,
    Generation,
    Patience,
    PromptMessage,
    UpstreamError,
    UpstreamFailed,
    UpstreamStalled,
    UpstreamUnavailable,
    Usage,
)
from llm.openai import OpenAi
from llm.simulator import SimulatorSettings, serve_simulator
from llm.simulator.request import Message

PIECES = ("안녕", "하세요, ", "여러분! ", "\u2028", "😀")
TEXT = "".join(PIECES)
SAYS = Generation(max_new_tokens=99, temperature=0.8, do_sample=True)


def script(_: Sequence[Message]) -> Sequence[str]:
    return PIECES


@pytest.fixture
async def url() -> AsyncIterator[str]:
    settings = SimulatorSettings(interval_ms=0, first_token_ms=0, script=script)
    with anyio.fail_after(20):
        async with serve_simulator(settings) as url:
            yield url


async def asked(
    url: str, text: str, how: str, *, generation: Generation = SAYS, model: str = ""
) -> tuple[str, Ending | UpstreamError]:
    said: list[str] = []
    engine = OpenAi(url, model=model, patience=Patience(silence_s=0.1, reply_s=0.3))
    try:
        ask = getattr(engine, how)
        question = (PromptMessage("user", text),)
        ending = await ask(question, generation, lambda piece, _: said.append(piece))
        return "".join(said), ending
    except UpstreamError as error:
        return "".join(said), error
    finally:
        await engine.aclose()


async def test_a_reply_streamed_or_whole_is_the_same_with_its_usage(url: str) -> None:
    usage = Usage(5, 6, 11)
    assert await asked(url, "안녕", "stream") == (TEXT, Ending("stop", 5, usage))
    assert await asked(url, "안녕", "complete") == (TEXT, Ending("stop", 1, usage))


async def test_a_reply_is_cut_by_its_limit(url: str) -> None:
    short = Generation(max_new_tokens=2, temperature=0, do_sample=False)
    said, ending = await asked(url, "안녕", "stream", generation=short)
    assert said == "안녕하세요, "
    assert isinstance(ending, Ending)
    assert ending.finish_reason == "length"


@pytest.mark.parametrize(
    ("directive", "streamed", "whole"),
    [
        ("error_at=2", ("안녕하세요, ", UpstreamFailed), ("", UpstreamFailed)),
        ("end_at=2", ("안녕하세요, ", UpstreamFailed), ("", UpstreamFailed)),
        ("cut_at=2", ("안녕하세요, ", UpstreamUnavailable), ("", UpstreamUnavailable)),
        ("stall_at=2", ("안녕하세요, ", UpstreamStalled), ("", UpstreamError)),
        ("status=503", ("", UpstreamUnavailable), ("", UpstreamUnavailable)),
        ("status=401", ("", UpstreamFailed), ("", UpstreamFailed)),
        (
            'status=400 message="maximum context length"',
            ("", ContextExceeded),
            ("", ContextExceeded),
        ),
        ("pieces=many", ("", UpstreamFailed), ("", UpstreamFailed)),
    ],
)
async def test_faults_on_request(
    url: str, directive: str, streamed: tuple[str, Any], whole: tuple[str, Any]
) -> None:
    for how, (text, error) in (("stream", streamed), ("complete", whole)):
        said, ending = await asked(url, f"#sim {directive}#", how)
        assert said == text
        assert isinstance(ending, error)


@pytest.mark.parametrize("directive", ["junk=1", "split_utf8=1", "junk=1 split_utf8=1"])
async def test_what_the_driver_does_not_mind(url: str, directive: str) -> None:
    said, ending = await asked(url, f"#sim {directive}#", "stream")
    assert said == TEXT
    assert isinstance(ending, Ending)


async def test_it_has_one_model(url: str) -> None:
    said, failed = await asked(url, "안녕", "stream", model="other")
    assert (said, type(failed)) == ("", UpstreamFailed)
    engines = {name: OpenAi(url, model=name) for name in ("", "simulated", "other")}
    assert [await engine.healthy() for engine in engines.values()] == [True, True, False]
    for engine in engines.values():
        await engine.aclose()


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ("{}", 400, "model"),
        ("[", 400, "JSON"),
        ('{"model":"simulated","messages":[]}', 400, "list index"),
        (
            '{"model":"simulated","messages":[{"role":"user","content":"x"}],"max_tokens":-1}',
            400,
            "0",
        ),
        ('{"model":"x","messages":[]}', 404, "`x`"),
    ],
)
async def test_what_it_refuses_it_refuses_in_openais_shape(
    url: str, body: str, status: int, says: str
) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"{url}/v1/chat/completions", content=body)
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]
