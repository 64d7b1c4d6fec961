"""The wire of OpenAI-compatible engines, one fact at a time, on a real socket."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from llm.client import (
    ContextExceeded,
    Driver,
    Ending,
    Generation,
    NoConnection,
    Patience,
    PromptMessage,
    ReplyTooLong,
    UpstreamError,
    UpstreamFailed,
    UpstreamStalled,
    UpstreamTimeout,
    UpstreamUnavailable,
    Usage,
    left_at_work,
)
from llm.openai import OpenAi
from tests.llm.asked import Asked
from tests.llm.scripted_openai import EngineCall, ScriptedEngine, delta, event, piece

QUESTION = (PromptMessage("system", "짧게."), PromptMessage("user", "안녕하세요!"))
GENERATION = Generation(max_new_tokens=128, temperature=0.7, do_sample=True)
HASTY = Patience(connect_s=0.1, first_token_s=0.1, silence_s=0.1, reply_s=0.1)
USAGE = Usage(74, 6, 80)
KEY = "sk-very-secret-key"


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    with anyio.fail_after(20):
        async with ScriptedEngine() as engine:
            yield engine


@asynccontextmanager
async def driver(url: str, *, model: str = "midm", **options: Any) -> AsyncIterator[OpenAi]:
    openai = OpenAi(url, model=model, **options)
    try:
        with anyio.fail_after(20):
            yield openai
    finally:
        await openai.aclose()


@asynccontextmanager
async def asking(
    engine: ScriptedEngine,
    how: str = "stream",
    *,
    generation: Generation = GENERATION,
    path: str = "",
    **options: Any,
) -> AsyncIterator[tuple[Asked, EngineCall]]:
    """A call under way; it is over when the block has ended."""
    asked = Asked()
    async with driver(engine.url + path, **options) as openai, anyio.create_task_group() as tasks:
        ask = getattr(openai, how)
        tasks.start_soon(asked.run, ask(QUESTION, generation, asked.say))
        yield asked, await engine.call()
        await asked.over.wait()


# What is asked


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/proxy", "/proxy/v1"])
async def test_the_address_may_end_in_v1(engine: ScriptedEngine, path: str) -> None:
    async with asking(engine, path=path) as (_, call):
        assert call.path == path.rstrip("/").removesuffix("/v1") + "/v1/chat/completions"
        await call.complete()


async def test_a_streamed_reply_is_asked_for_with_its_usage(engine: ScriptedEngine) -> None:
    async with asking(engine) as (_, call):
        assert call.body == {
            "model": "midm",
            "messages": [
                {"role": "system", "content": "짧게."},
                {"role": "user", "content": "안녕하세요!"},
            ],
            "max_tokens": 128,
            "temperature": 0.7,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        await call.complete()


async def test_a_whole_reply_is_asked_for_without_stream_options(engine: ScriptedEngine) -> None:
    async with asking(engine, "complete") as (asked, call):
        assert call.body["stream"] is False
        assert "stream_options" not in call.body
        await call.answer("  안녕하세요!  ")
    assert asked.said == [("  안녕하세요!  ", 1)]
    assert asked.ending == Ending("stop", 1, USAGE)


async def test_no_sampling_is_temperature_zero(engine: ScriptedEngine) -> None:
    greedy = Generation(max_new_tokens=128, temperature=0.7, do_sample=False)
    async with asking(engine, generation=greedy) as (_, call):
        assert call.body["temperature"] == 0
        await call.complete()


async def test_more_can_be_sent_than_the_contract_knows(engine: ScriptedEngine) -> None:
    extra = {"top_k": 20, "top_p": 0.75, "model": "never"}
    async with asking(engine, extra_body=extra) as (_, call):
        assert (call.body["top_k"], call.body["top_p"]) == (20, 0.75)
        assert call.body["model"] == "midm"
        await call.complete()


async def test_the_key_goes_as_a_bearer_token_and_nowhere_else(
    engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with asking(engine, api_key=KEY) as (asked, call):
        assert call.headers["authorization"] == f"Bearer {KEY}"
        await call.refuse(401, {"error": f"Unauthorized: {KEY}"})
    assert "LLM_API_KEY" in str(asked.error)
    assert KEY not in repr(asked.error) + caplog.text


async def test_without_a_key_none_is_sent(engine: ScriptedEngine) -> None:
    async with asking(engine) as (_, call):
        assert "authorization" not in call.headers
        await call.complete()


async def test_without_a_name_the_first_model_is_asked_and_looked_up_once(
    engine: ScriptedEngine,
) -> None:
    async with driver(engine.url, model="") as openai, anyio.create_task_group() as tasks:
        for _ in range(2):
            asked = Asked()
            tasks.start_soon(asked.run, openai.stream(QUESTION, GENERATION, asked.say))
            call = await engine.call()
            assert call.body["model"] == "midm"
            await call.complete()
            await asked.over.wait()
    assert engine.listed == 1


async def test_the_first_model_is_looked_up_again_when_it_is_gone(engine: ScriptedEngine) -> None:
    async with driver(engine.url, model="") as openai, anyio.create_task_group() as tasks:
        for name, status in (("midm", 404), ("midm-2", 200)):
            engine.models = {"data": [{"id": name}]}
            asked = Asked()
            tasks.start_soon(asked.run, openai.stream(QUESTION, GENERATION, asked.say))
            call = await engine.call()
            assert call.body["model"] == name
            await (call.complete() if status == 200 else call.refuse(status, {"error": "gone"}))
            await asked.over.wait()
    assert asked.ending is not None


async def test_a_server_that_lists_no_model_needs_a_name(engine: ScriptedEngine) -> None:
    engine.models = {"data": None}  # as Ollama has it
    async with driver(engine.url, model="") as openai:
        with pytest.raises(UpstreamFailed, match="LLM_MODEL"):
            await openai.stream(QUESTION, GENERATION, lambda *_: None)


# What engines refuse to know


@pytest.mark.parametrize(
    ("status", "refusal"),
    [
        (400, {"object": "error", "message": "[{'loc': ('body', 'stream_options')}]", "code": 400}),
        (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"]}]}),
    ],
)
async def test_an_engine_without_stream_options_is_asked_without_and_never_again(
    engine: ScriptedEngine, status: int, refusal: Any
) -> None:
    async with driver(engine.url) as openai, anyio.create_task_group() as tasks:
        asked = Asked()
        tasks.start_soon(asked.run, openai.stream(QUESTION, GENERATION, asked.say))
        await (await engine.call()).refuse(status, refusal)
        call = await engine.call()
        assert "stream_options" not in call.body
        await call.say("끝")
        # Piece by piece: the limits of time are those of the request that was understood.
        assert await asked.next() == ("끝", 1)
        await call.complete()
        await asked.over.wait()
        assert asked.ending == Ending("stop", 1, None)
        tasks.start_soon(asked.run, openai.stream(QUESTION, GENERATION, asked.say))
        call = await engine.call()
        assert "stream_options" not in call.body
        await call.complete()


async def test_a_stall_is_noticed_after_a_refusal_as_well(engine: ScriptedEngine) -> None:
    async with asking(engine, patience=Patience(silence_s=0.1)) as (asked, call):
        await call.refuse(400, {"error": {"message": "unknown field stream_options"}})
        await (await engine.call()).say("반")
    assert isinstance(asked.error, UpstreamStalled)
    assert asked.text == "반"


async def test_an_engine_asked_once_more_is_not_waited_for_for_ever(engine: ScriptedEngine) -> None:
    async with asking(engine, patience=Patience(first_token_s=0.2)) as (asked, call):
        await call.refuse(400, {"error": {"message": "unknown field stream_options"}})
        await engine.call()
    assert isinstance(asked.error, UpstreamTimeout)


async def test_what_was_refused_for_another_reason_is_asked_again(engine: ScriptedEngine) -> None:
    """A refusal may quote the user, who may speak of stream_options."""
    quoting = {"detail": [{"msg": "no such role", "input": "what are stream_options?"}]}
    async with driver(engine.url) as openai, anyio.create_task_group() as tasks:
        asked = Asked()
        tasks.start_soon(asked.run, openai.stream(QUESTION, GENERATION, asked.say))
        for _ in range(2):
            await (await engine.call()).refuse(422, quoting)
        await asked.over.wait()
        assert isinstance(asked.error, UpstreamFailed)
        tasks.start_soon(asked.run, openai.stream(QUESTION, GENERATION, asked.say))
        call = await engine.call()
        assert "stream_options" in call.body
        await call.complete()


async def test_a_model_that_takes_max_completion_tokens_alone_gets_it(
    engine: ScriptedEngine,
) -> None:
    says = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    async with asking(engine) as (asked, call):
        await call.refuse(400, {"error": {"message": says, "code": "unsupported_parameter"}})
        call = await engine.call()
        assert "max_tokens" not in call.body
        assert call.body["max_completion_tokens"] == 128
        await call.complete()
    assert asked.ending == Ending("stop", 0, USAGE)


# A reply that ends well


async def test_a_reply_is_said_as_it_arrives(engine: ScriptedEngine) -> None:
    async with asking(engine) as (asked, call):
        for count, content in enumerate(("안녕", "하세요", "!", " ", "\n"), 1):
            await call.say(content)
            assert await asked.next() == (content, count)
        await call.complete()
    assert asked.ending == Ending("stop", 5, USAGE)


async def test_a_reply_cut_by_its_limit(engine: ScriptedEngine) -> None:
    async with asking(engine) as (asked, call):
        await call.say("하나")
        await call.complete("length")
    assert asked.ending == Ending("length", 1, USAGE)


@pytest.mark.parametrize("reason", ["stop", "tool_calls", "content_filter", ["odd"], True])
async def test_any_other_reason_is_an_end(engine: ScriptedEngine, reason: Any) -> None:
    async with asking(engine) as (asked, call):
        await call.complete(reason)
    assert asked.ending == Ending("stop", 0, USAGE)


@pytest.mark.parametrize("reason", ["abort", "error"])
async def test_a_reply_that_was_broken_off_has_not_ended_well(
    engine: ScriptedEngine, reason: str
) -> None:
    async with asking(engine) as (asked, call):
        await call.say("반쯤")
        await call.complete(reason)
    assert (asked.text, type(asked.error)) == ("반쯤", UpstreamFailed)


async def test_a_pair_of_surrogates_may_come_in_two_pieces(engine: ScriptedEngine) -> None:
    async with asking(engine) as (asked, call):
        for half in ("\\ud83d", "\\ude00", "\\ud83d"):
            await call.raw(piece("HERE").replace(b"HERE", half.encode()))
        await call.complete()
    assert asked.text == "😀\ufffd"


async def test_what_a_model_thinks_aloud_is_not_said(engine: ScriptedEngine) -> None:
    async with asking(engine) as (asked, call):
        await call.raw(delta({"reasoning_content": "흠…"}) + delta({"reasoning": "흠…"}))
        await call.raw(delta({"content": None, "reasoning_content": "아하"}))
        await call.raw(delta({"content": "답", "reasoning_content": None}))
        await call.raw(delta({"content": "이다", "reasoning_content": None}))
        await call.complete()
    assert (asked.text, asked.ending) == ("답이다", Ending("stop", 2, USAGE))


async def test_text_may_come_in_parts(engine: ScriptedEngine) -> None:
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "답"}, {"text": 5}, "x"]
    async with asking(engine) as (asked, call):
        await call.raw(delta({"content": parts}) + delta({"content": []}))
        await call.raw(
            delta({"content": [{"type": "text", "text": "이"}]}) + delta({"content": "다"})
        )
        await call.complete()
    assert (asked.text, asked.ending) == ("답이다", Ending("stop", 3, USAGE))


async def test_usage_in_every_chunk_counts_once(engine: ScriptedEngine) -> None:
    async with asking(engine) as (asked, call):
        for count, content in enumerate("가나다", 1):
            usage = {"prompt_tokens": 5, "completion_tokens": count, "total_tokens": 5 + count}
            await call.raw(delta({"content": content}, usage=usage))
        await call.raw(delta({}, "stop", usage={"prompt_tokens": 5, "completion_tokens": 4}))
        await asked.over.wait()
        await call.closed()
    assert asked.text == "가나다"
    assert asked.ending == Ending("stop", 3, Usage(5, 4, 9))


async def test_events_that_make_no_sense_are_passed_over(
    engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    junk = [b"data: nonsense\n\n", b"data: [1]\n\n", b": comment\n\n", event({"choices": []})]
    junk += [event({"choices": None}), event({"choices": [{}]}), event({"choices": [7]})]
    async with asking(engine) as (asked, call):
        await call.say("가")
        await call.raw(b"".join(junk))
        await call.say("나")
        await call.complete()
    assert (asked.text, asked.ending) == ("가나", Ending("stop", 2, USAGE))
    assert "ignored 2 events" in caplog.text


# After its end nothing can fail


@pytest.mark.parametrize("how", ["end", "vanish", "cut", "error"])
async def test_a_reply_that_has_its_reason_has_ended_well(engine: ScriptedEngine, how: str) -> None:
    async with asking(engine) as (asked, call):
        await call.say("끝")
        await call.raw(delta({}, "stop"))
        await getattr(call, how)()
    assert asked.ending == Ending("stop", 1, None)


async def test_usage_that_never_comes_is_not_waited_for(
    engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm.call.LAST_WORDS_WITHIN_S", 0.01)
    async with asking(engine) as (asked, call):
        await call.raw(piece("끝") + delta({}, "stop"))
        await asked.over.wait()
        await call.closed()
    assert asked.ending == Ending("stop", 1, None)


# Failures


async def test_a_stream_that_ends_without_a_reason_has_failed(engine: ScriptedEngine) -> None:
    for last in (b"data: [DONE]\n\n", b""):
        async with asking(engine) as (asked, call):
            await call.raw(piece("반쯤") + last)
            await call.end()
        assert (asked.text, type(asked.error)) == ("반쯤", UpstreamFailed)


async def test_a_cut_connection_keeps_the_text(engine: ScriptedEngine) -> None:
    async with asking(engine) as (asked, call):
        await call.say("반쯤")
        await call.vanish()
    assert asked.text == "반쯤"
    assert isinstance(asked.error, UpstreamUnavailable)
    assert asked.error.replied


@pytest.mark.parametrize(
    ("reported", "error"),
    [
        ({"error": "text"}, UpstreamFailed),
        ({"error": {"message": "CUDA out of memory", "code": 500}}, UpstreamFailed),
        ({"object": "error", "message": "older vLLM"}, UpstreamFailed),
        ({"error": {"message": "Context size has been exceeded."}}, ContextExceeded),
    ],
)
@pytest.mark.parametrize("how", ["stream", "complete"])
async def test_an_error_with_status_200(
    engine: ScriptedEngine, how: str, reported: Any, error: type[UpstreamError]
) -> None:
    async with asking(engine, how) as (asked, call):
        if how == "stream":
            await call.raw(piece("반") + event(reported))
            await call.end()
        else:
            await call.json(reported)
    assert type(asked.error) is error
    assert asked.text == ("반" if how == "stream" else "")


@pytest.mark.parametrize("answer", ["", "[]", "{}", '{"choices":[{"message":{"content":"x"}}]}'])
async def test_an_answer_without_a_finished_reply_has_failed(
    engine: ScriptedEngine, answer: str
) -> None:
    async with asking(engine, "complete") as (asked, call):
        await call.refuse(200, answer)
    assert (asked.said, type(asked.error)) == ([], UpstreamFailed)


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (400, UpstreamFailed, "status 400"),
        (401, UpstreamFailed, "LLM_API_KEY"),
        (403, UpstreamFailed, "LLM_API_KEY"),
        (404, UpstreamFailed, "LLM_MODEL"),
        (405, UpstreamFailed, "LLM_SERVER_URL"),
        (429, UpstreamUnavailable, "status 429"),
        (500, UpstreamFailed, "status 500"),
        (503, UpstreamUnavailable, "status 503"),
    ],
)
@pytest.mark.parametrize("how", ["stream", "complete"])
async def test_a_refusal_is_told_in_our_own_words(
    engine: ScriptedEngine, how: str, status: int, error: type[UpstreamError], says: str
) -> None:
    async with asking(engine, how) as (asked, call):
        await call.refuse(status, {"error": {"message": "you said SECRET", "code": status}})
    assert type(asked.error) is error
    assert says in str(asked.error)
    assert "SECRET" not in str(asked.error)
    if isinstance(asked.error, UpstreamUnavailable):
        assert not asked.error.replied


async def test_something_else_than_events_is_no_reply(engine: ScriptedEngine) -> None:
    async with asking(engine) as (asked, call):
        await call.answer("not streamed")
    assert isinstance(asked.error, UpstreamFailed)


async def test_a_reply_without_end_is_left(engine: ScriptedEngine) -> None:
    async with asking(engine, max_reply_chars=5) as (asked, call):
        await call.raw(piece("12") + piece("34567"))
        await asked.over.wait()
        await call.closed()
    assert (asked.text, type(asked.error)) == ("12345", ReplyTooLong)


@pytest.mark.parametrize("how", ["stream", "complete"])
async def test_limits_of_time(engine: ScriptedEngine, how: str) -> None:
    async with asking(engine, how, patience=HASTY) as (asked, call):
        await call.closed()
    assert isinstance(asked.error, UpstreamTimeout)
    assert left_at_work(asked.error)


async def test_silence_after_a_piece_is_a_stall(engine: ScriptedEngine) -> None:
    patience = Patience(first_token_s=10, silence_s=0.1)
    async with asking(engine, patience=patience) as (asked, call):
        await call.say("음")
        await call.closed()
    assert isinstance(asked.error, UpstreamStalled)


async def test_nobody_there(free_port: int) -> None:
    async with driver(f"http://127.0.0.1:{free_port}") as openai:
        for ask in (openai.stream, openai.complete):
            with pytest.raises(UpstreamUnavailable) as caught:
                await ask(QUESTION, GENERATION, lambda *_: None)
            assert not caught.value.replied
        with pytest.raises(UpstreamUnavailable):
            await openai.healthy()


def test_without_a_connection_nothing_is_left_at_work() -> None:
    assert not left_at_work(NoConnection("in time"))
    assert left_at_work(asyncio.CancelledError())


async def test_cancelling_closes_the_connection_at_once(engine: ScriptedEngine) -> None:
    async with driver(engine.url) as openai, anyio.create_task_group() as tasks:
        asked = Asked()
        tasks.start_soon(asked.run, openai.stream(QUESTION, GENERATION, asked.say))
        call = await engine.call()
        await call.say("음")
        await asked.next()
        tasks.cancel_scope.cancel()
    await call.closed()


@pytest.mark.parametrize(
    ("messages", "generation"),
    [
        ((), GENERATION),
        ((PromptMessage("user", " \n"),), GENERATION),
        (QUESTION, Generation(max_new_tokens=0, temperature=1, do_sample=True)),
        (QUESTION, Generation(max_new_tokens=1, temperature=0, do_sample=True)),
    ],
)
async def test_what_makes_no_sense_is_never_sent(
    messages: tuple[PromptMessage, ...], generation: Generation, free_port: int
) -> None:
    async with driver(f"http://127.0.0.1:{free_port}") as openai:
        for ask in (openai.stream, openai.complete):
            with pytest.raises(ValueError, match=r"must|blank|no message"):
                await ask(messages, generation, lambda *_: None)


# Health


@pytest.mark.parametrize(
    ("model", "models", "healthy"),
    [
        ("midm", ["midm", "other"], True),
        ("other", ["midm", "other"], True),
        ("", ["midm"], True),
        ("midm", ["midm:latest"], True),
        ("midm", ["midm@main"], True),
        ("midm", ["midm:7b"], False),
        ("midm", ["midm-2"], False),
        ("midm", [], True),
        ("", [], False),
    ],
)
async def test_a_server_is_well_that_lists_the_model(
    engine: ScriptedEngine, model: str, models: list[str], healthy: bool
) -> None:
    engine.models = {"object": "list", "data": [{"id": name} for name in models]}
    async with driver(engine.url, model=model) as openai:
        assert await openai.healthy() is healthy


async def test_a_server_that_does_not_have_the_model_is_named_once(
    engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    async with driver(engine.url, model="nope") as openai:
        for _ in range(3):
            assert not await openai.healthy()
    assert caplog.text.count("does not serve LLM_MODEL=nope, but midm") == 1


async def test_a_server_that_is_loading_is_not_well(engine: ScriptedEngine) -> None:
    engine.loading = 503
    async with driver(engine.url) as openai:
        assert not await openai.healthy()
        engine.loading = 200
        assert await openai.healthy()


@pytest.mark.parametrize(
    ("status", "says"), [(308, "redirects"), (401, "LLM_API_KEY"), (404, "LLM_SERVER_URL")]
)
async def test_a_server_that_refuses_to_list_says_what_to_set(
    engine: ScriptedEngine, caplog: pytest.LogCaptureFixture, status: int, says: str
) -> None:
    engine.listing = status
    async with driver(engine.url) as openai:
        assert not await openai.healthy()
    assert says in caplog.text


@pytest.mark.parametrize("asked", ["models", "loading"])
async def test_a_mute_server_is_a_timeout(engine: ScriptedEngine, asked: str) -> None:
    setattr(engine, asked, None)
    async with driver(engine.url) as openai:
        with pytest.raises(UpstreamTimeout):
            await openai.healthy(timeout_s=0.05)


async def test_a_closed_driver_calls_nobody(engine: ScriptedEngine) -> None:
    openai: Driver = OpenAi(engine.url, model="midm")
    await openai.aclose()
    with pytest.raises(UpstreamUnavailable):
        await openai.stream(QUESTION, GENERATION, lambda *_: None)
    assert engine.connections == 0
