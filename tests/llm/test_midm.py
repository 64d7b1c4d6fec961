"""midm's wire, one fact at a time, against a scripted server on a real socket."""

import asyncio
import gc
import logging
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from anyio.abc import SocketStream

from llm.call import Limit
from llm.client import (
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
from llm.midm import Midm
from tests.llm.asked import Asked
from tests.llm.scripted import HEALTH, USAGE, Call, ScriptedModel, event, listening

QUESTION = (PromptMessage("user", "안녕하세요!"),)
GENERATION = Generation(max_new_tokens=128, temperature=0.7, do_sample=True)
HASTY = Patience(connect_s=0.1, first_token_s=0.1, silence_s=0.1, reply_s=0.1)


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    with anyio.fail_after(20):
        async with ScriptedModel() as model:
            yield model


@asynccontextmanager
async def driver(url: str, **options: Any) -> AsyncIterator[Midm]:
    midm = Midm(url, **options)
    try:
        with anyio.fail_after(20):
            yield midm
    finally:
        await midm.aclose()


def piece(content: str, count: int) -> bytes:
    fields = {"content": content, "accumulated": "", "token_count": count}
    return event({"type": "chunk", **fields})


@asynccontextmanager
async def asking(
    model: ScriptedModel,
    how: str = "stream",
    *,
    generation: Generation = GENERATION,
    **options: Any,
) -> AsyncIterator[tuple[Asked, Call]]:
    """A call under way; it is over when the block has ended, cancelled if it has to be."""
    asked = Asked()
    async with driver(model.url, **options) as midm, anyio.create_task_group() as tasks:
        ask = getattr(midm, how)
        tasks.start_soon(asked.run, ask(QUESTION, generation, asked.say))
        yield asked, await model.call()
        await asked.over.wait()


# A reply that ends well


async def test_a_reply_is_said_as_it_arrives(model: ScriptedModel) -> None:
    async with asking(model) as (asked, call):
        for count, piece in enumerate(("안녕하세요! ", "저는 ", "\n", " "), 1):
            await call.say(piece)
            assert await asked.next() == (piece, count)
        await call.complete()
    assert asked.ending == Ending("stop", total_pieces=4)


async def test_what_arrives_together_is_said_together(model: ScriptedModel) -> None:
    async with asking(model) as (asked, call):
        await call.say("안녕하세요! ")
        assert await asked.next() == ("안녕하세요! ", 1)
        together = ("저는 ", 2), ("믿음입니다.", 3)
        await call.raw(b"".join(piece(content, count) for content, count in together))
        assert await asked.next() == ("저는 믿음입니다.", 3)
        await call.complete()


async def test_what_arrives_with_the_end_is_said_before_it(model: ScriptedModel) -> None:
    async with asking(model) as (asked, call):
        complete = event({"type": "complete", "full_response": "끝", "total_tokens": 1})
        await call.raw(piece("끝", 1) + complete)
    assert asked.said == [("끝", 1)]
    assert asked.ending == Ending("stop", total_pieces=1)


async def test_what_arrives_with_an_error_is_said_before_it(model: ScriptedModel) -> None:
    async with asking(model) as (asked, call):
        await call.raw(piece("끝", 1) + event({"type": "error", "message": "CUDA"}))
    assert asked.said == [("끝", 1)]
    assert isinstance(asked.error, UpstreamFailed)


async def test_the_request_is_what_midm_takes(model: ScriptedModel) -> None:
    async with asking(model) as (_, call):
        assert call.path == "/chat/stream"
        assert call.body == {
            "messages": [{"role": "user", "content": "안녕하세요!"}],
            "max_new_tokens": 128,
            "temperature": 0.7,
            "do_sample": True,
        }
        await call.complete()


async def test_the_reply_is_over_with_its_complete_event(model: ScriptedModel) -> None:
    async with asking(model) as (asked, call):
        await call.say("끝")
        await call.raw(event({"type": "complete", "full_response": "끝", "total_tokens": 1}))
        await asked.over.wait()  # without [DONE], without the end of the body
        await call.closed()
    assert asked.ending == Ending("stop", total_pieces=1)


async def test_a_reply_may_be_empty(model: ScriptedModel) -> None:
    async with asking(model) as (asked, call):
        await call.say("")
        await call.complete()
    assert asked.said == []
    assert asked.ending == Ending("stop", total_pieces=1)


@pytest.mark.parametrize(
    ("max_new_tokens", "total", "reason", "pieces"),
    [
        (3, 3, "length", 3),
        (3, 4, "length", 4),
        (4, 3, "stop", 3),
        (2, None, "length", 2),
        (3, "3", "stop", 2),
        (3, True, "stop", 2),
        (3, -1, "stop", 2),
    ],
)
async def test_length_is_inferred_from_the_number_of_pieces(
    model: ScriptedModel, max_new_tokens: int, total: Any, reason: Any, pieces: int
) -> None:
    generation = Generation(max_new_tokens=max_new_tokens, temperature=1.0, do_sample=False)
    async with asking(model, generation=generation) as (asked, call):
        await call.say("하나 ", "둘 ")
        await call.raw(event({"type": "complete", "full_response": "", "total_tokens": total}))
    assert asked.ending == Ending(reason, total_pieces=pieces)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\ufeff", "\ufffd"])
async def test_characters_that_other_parsers_trip_over(
    model: ScriptedModel, separator: str
) -> None:
    async with asking(model) as (asked, call):
        await call.say(f"앞{separator}", f"{separator}뒤", separator)
        await call.complete()
    assert asked.text == f"앞{separator}{separator}뒤{separator}"


async def test_text_is_storable_across_pieces(model: ScriptedModel) -> None:
    async with asking(model) as (asked, call):
        for count, content in enumerate((r"a\ud83d", r"\ude00b\u0000", r"\udc00", r"\ud83d"), 1):
            fields = f'"content": "{content}", "accumulated": "", "token_count": {count}'
            await call.raw(f'data: {{"type": "chunk", {fields}}}\n\n'.encode())
        await call.complete()
    assert asked.text == "a😀b\ufffd\ufffd\ufffd"


async def test_events_that_make_no_sense_are_ignored_and_mentioned_once(
    model: ScriptedModel, caplog: pytest.LogCaptureFixture
) -> None:
    junk = ['"text"', "[1]", "{", "null", "12" * 3000, "[" * 100_000, '{"type": "usage"}', "{}"]
    junk += ['{"type": "chunk"}', '{"type": "chunk", "content": 1}', '{"type": ["chunk"]}']
    async with asking(model) as (asked, call):
        for data in [*junk, "[DONE]", '{"type": "start"}']:
            await call.raw(f": comment\nevent: x\ndata: {data}\n\n".encode())
        await call.raw(b"data: \xff\xfe\n\n")
        await call.say("글")
        await call.complete()
    assert asked.text == "글"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == f"ignored {len(junk) + 1} events that made no sense"


async def test_each_call_has_a_connection_of_its_own(model: ScriptedModel) -> None:
    model.autoreply(lambda messages: ["네. "])
    async with driver(model.url) as midm:
        for _ in range(2):
            await midm.stream(QUESTION, GENERATION, Asked().say)
        assert model.connections == 2


async def test_a_base_url_may_have_a_path(model: ScriptedModel) -> None:
    async with driver(f"{model.url}/midm/") as midm, anyio.create_task_group() as tasks:
        asked = Asked()
        tasks.start_soon(asked.run, midm.stream(QUESTION, GENERATION, asked.say))
        call = await model.call()
        assert call.path == "/midm/chat/stream"
        await call.complete()


def test_what_is_sent_is_written_once_but_for_the_body() -> None:
    midm = Midm("http://me:secret@127.0.0.1:8000/midm/")
    assert midm._to_chat.message(b'{"messages":[]}').split(b"\r\n") == [
        b"POST /midm/chat HTTP/1.1",
        b"Host: 127.0.0.1:8000",
        b"Accept-Encoding: identity",
        b"User-Agent: midm-chat-gateway",
        b"Content-Type: application/json",
        b"Authorization: Basic bWU6c2VjcmV0",
        b"Connection: close",
        b"Content-Length: 15",
        b"",
        b'{"messages":[]}',
    ]
    assert b"Content-Length" not in midm._to_health.message(b"")


def test_midm_is_a_driver() -> None:
    checked_by_mypy: Driver = Midm("http://127.0.0.1:8000")
    assert checked_by_mypy


# A reply that does not


async def test_an_error_event_fails_the_reply_and_keeps_its_words_out_of_the_log(
    model: ScriptedModel, caplog: pytest.LogCaptureFixture
) -> None:
    async with asking(model) as (asked, call):
        await call.say("여기까지 ")
        await call.error("CUDA error at /home/model")
    assert type(asked.error) is UpstreamFailed
    assert asked.text == "여기까지 "
    assert "CUDA" not in str(asked.error)
    assert not caplog.records


async def test_an_error_event_may_be_empty(model: ScriptedModel) -> None:
    async with asking(model) as (asked, call):
        await call.error("")
    assert type(asked.error) is UpstreamFailed


async def test_an_end_without_complete_is_a_failure(model: ScriptedModel) -> None:
    async with asking(model) as (asked, call):
        await call.say("반 ")
        await call.raw(b"data: [DONE]\n\n")
        await call.end()
    assert type(asked.error) is UpstreamFailed
    assert asked.text == "반 "


@pytest.mark.parametrize("how", ["cut", "vanish"])
async def test_a_broken_connection_keeps_what_was_said(model: ScriptedModel, how: str) -> None:
    async with asking(model) as (asked, call):
        await call.say("반 ")
        await asked.next()
        await getattr(call, how)()
    assert type(asked.error) is UpstreamUnavailable
    assert asked.text == "반 "


@pytest.mark.parametrize("how", ["cut", "vanish"])
@pytest.mark.parametrize("which", ["stream", "complete"])
async def test_a_connection_that_breaks_before_any_answer(
    model: ScriptedModel, how: str, which: str
) -> None:
    async with asking(model, which) as (asked, call):
        await getattr(call, how)()
    assert type(asked.error) is UpstreamUnavailable


@pytest.mark.parametrize(
    ("status", "error"),
    [(code, UpstreamUnavailable) for code in (408, 429, 502, 503, 504)]
    + [(code, UpstreamFailed) for code in (304, 307, 400, 401, 404, 422, 500, 501)],
)
@pytest.mark.parametrize("which", ["stream", "complete"])
async def test_what_a_status_means(
    model: ScriptedModel, which: str, status: int, error: type[UpstreamError]
) -> None:
    async with asking(model, which) as (asked, call):
        await call.status(status, "<html>" if status != 304 else "")
    assert type(asked.error) is error


async def test_a_refusal_without_end_is_a_refusal(model: ScriptedModel) -> None:
    async with asking(model) as (asked, call):
        await call.wire(b"HTTP/1.1 503 Busy\r\nContent-Length: 9\r\n\r\n")
    assert type(asked.error) is UpstreamUnavailable


async def test_the_page_of_a_proxy_is_no_reply(model: ScriptedModel) -> None:
    async with asking(model) as (asked, call):
        await call.status(200, 'data: {"type": "complete", "total_tokens": 0}\n\n')
    assert type(asked.error) is UpstreamFailed


async def test_what_is_not_http(model: ScriptedModel) -> None:
    async with asking(model) as (asked, call):
        await call.wire(b"SSH-2.0-OpenSSH_9.2\r\n")
    assert type(asked.error) is UpstreamUnavailable


async def test_more_text_than_allowed_is_cut_off_there(model: ScriptedModel) -> None:
    async with asking(model, max_reply_chars=6) as (asked, call):
        await call.say("가나다 ", "라마바", "사")
        await call.closed()
    assert type(asked.error) is ReplyTooLong
    assert asked.text == "가나다 라마"


async def test_an_event_without_end_is_cut_off(model: ScriptedModel) -> None:
    async with asking(model, max_reply_chars=10) as (asked, call):
        await call.say("앞")
        await call.raw(b"data: " + b"x" * 10_000)
        await call.closed()
    assert type(asked.error) is ReplyTooLong


# Time


async def _nothing(call: Call) -> None:
    await call.closed()


async def _headers(call: Call) -> None:
    await call.wire(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")


async def _start(call: Call) -> None:
    await call.start()


async def _empty_pieces(call: Call) -> None:
    await _until_closed(call, event({"type": "chunk", "content": "", "token_count": 1}))


async def _comments(call: Call) -> None:
    await _until_closed(call, b": still here\n\n")


async def _junk(call: Call) -> None:
    await _until_closed(call, b"data: {}\n\n")


async def _a_byte_now_and_then(call: Call) -> None:
    await _until_closed(call, b"d")


async def _until_closed(call: Call, data: bytes) -> None:
    """Send the bytes again and again, one scheduling round apart, until the client leaves."""
    async with anyio.create_task_group() as tasks:

        async def send() -> None:
            while True:
                await call.raw(data)
                await anyio.lowlevel.checkpoint()

        tasks.start_soon(send)
        await call.closed()
        tasks.cancel_scope.cancel()


SILENCES = [_nothing, _headers, _start, _empty_pieces, _comments, _junk, _a_byte_now_and_then]


@pytest.mark.parametrize("silence", SILENCES)
async def test_no_first_piece_in_time(
    model: ScriptedModel, silence: Callable[[Call], Awaitable[None]]
) -> None:
    patience = Patience(first_token_s=0.1, silence_s=60)
    async with asking(model, patience=patience) as (asked, call):
        await silence(call)
        await call.closed()
    assert type(asked.error) is UpstreamTimeout


@pytest.mark.parametrize("silence", SILENCES)
async def test_silence_after_a_piece(
    model: ScriptedModel, silence: Callable[[Call], Awaitable[None]]
) -> None:
    patience = Patience(first_token_s=60, silence_s=0.1)
    async with asking(model, patience=patience) as (asked, call):
        await call.say("말하다가 ")
        await asked.next()
        if silence is not _headers:
            await silence(call)
        await call.closed()
    assert type(asked.error) is UpstreamStalled
    assert asked.text == "말하다가 "


async def test_a_slow_reply_is_no_silence(model: ScriptedModel) -> None:
    patience = Patience(first_token_s=0.25, silence_s=0.25)
    loop = asyncio.get_running_loop()
    async with asking(model, patience=patience) as (asked, call):
        began = loop.time()
        while loop.time() - began < 0.6:
            await call.say("천천히 ")
            await anyio.sleep(0.05)  # the pace of the model, not a wait for anything
        await call.complete()
    assert asked.ending is not None


async def test_a_whole_reply_has_a_limit_of_its_own(model: ScriptedModel) -> None:
    async with asking(model, "complete", patience=Patience(reply_s=0.1)) as (asked, call):
        await call.closed()
    assert type(asked.error) is UpstreamTimeout


async def test_a_whole_reply_may_take_longer_than_a_first_piece(model: ScriptedModel) -> None:
    patience = Patience(first_token_s=0.01, silence_s=0.01)
    async with asking(model, "complete", patience=patience) as (asked, call):
        await anyio.sleep(0.05)  # the pace of the model, not a wait for anything
        await call.answer("느긋하게")
    assert asked.text == "느긋하게"


async def test_a_limit_in_the_caller_is_not_taken_for_ours(model: ScriptedModel) -> None:
    def say(text: str, count: int) -> None:
        raise TimeoutError("of the caller's own")

    model.autoreply(lambda messages: ["네. "])
    async with driver(model.url) as midm:
        with pytest.raises(TimeoutError, match="of the caller's own"):
            await midm.stream(QUESTION, GENERATION, say)


# Connections


async def test_nobody_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        async with driver(f"http://127.0.0.1:{bound.getsockname()[1]}") as midm:
            for ask in (midm.stream, midm.complete):
                with pytest.raises(UpstreamUnavailable):
                    await ask(QUESTION, GENERATION, Asked().say)
            with pytest.raises(UpstreamUnavailable):
                await midm.healthy()


async def test_no_such_name() -> None:
    async with driver("http://name.invalid:8000") as midm:
        with pytest.raises(UpstreamUnavailable) as caught:
            await midm.stream(QUESTION, GENERATION, Asked().say)
        assert isinstance(caught.value.__cause__, httpx.ConnectError)


async def test_connecting_has_a_limit() -> None:
    async def never_shake_hands(stream: SocketStream) -> None:
        async with stream:
            await anyio.sleep_forever()

    async with (
        listening(never_shake_hands) as port,
        driver(f"https://127.0.0.1:{port}", patience=Patience(connect_s=0.05)) as midm,
    ):
        with pytest.raises(NoConnection) as caught:
            await midm.stream(QUESTION, GENERATION, Asked().say)
        assert isinstance(caught.value.__cause__, httpx.ConnectTimeout)
    assert not left_at_work(caught.value), "nothing was sent"


@pytest.mark.parametrize("stage", ["before headers", "mid body"])
@pytest.mark.parametrize("how", ["stream", "complete"])
async def test_cancelling_closes_the_connection(model: ScriptedModel, how: str, stage: str) -> None:
    asked = Asked()
    async with driver(model.url) as midm:
        async with anyio.create_task_group() as tasks:
            ask = getattr(midm, how)
            tasks.start_soon(asked.run, ask(QUESTION, GENERATION, asked.say))
            call = await model.call()
            if stage == "mid body":
                await call.say("하던 ")
            if how == "stream" and stage == "mid body":
                await asked.next()
            tasks.cancel_scope.cancel()
        await call.closed()
    assert not asked.over.is_set()


async def test_a_failing_listener_closes_the_connection(model: ScriptedModel) -> None:
    def say(text: str, count: int) -> None:
        raise RuntimeError("cannot keep it")

    async with driver(model.url) as midm, anyio.create_task_group() as tasks:

        async def ask() -> None:
            with pytest.raises(RuntimeError, match="cannot keep it"):
                await midm.stream(QUESTION, GENERATION, say)

        tasks.start_soon(ask)
        call = await model.call()
        await call.say("들리나 ")
        await call.closed()


async def test_closing_the_driver_ends_its_calls(model: ScriptedModel) -> None:
    asked = Asked()
    async with anyio.create_task_group() as tasks:
        async with driver(model.url) as midm:
            tasks.start_soon(asked.run, midm.stream(QUESTION, GENERATION, asked.say))
            call = await model.call()
        await call.closed()
    assert type(asked.error) is UpstreamUnavailable
    with pytest.raises(UpstreamUnavailable):
        await midm.healthy()


async def test_an_ended_reply_leaves_nothing_to_the_garbage_collector(
    model: ScriptedModel,
) -> None:
    model.autoreply(lambda messages: ["가 ", "나 "])
    forgotten: list[Any] = []
    hooks = sys.get_asyncgen_hooks()
    async with driver(model.url) as midm:
        # The loop's own hook would close a forgotten generator in a task of nobody's.
        sys.set_asyncgen_hooks(finalizer=forgotten.append)
        try:
            await midm.stream(QUESTION, GENERATION, Asked().say)
        finally:
            sys.set_asyncgen_hooks(*hooks)
    gc.collect()
    assert not forgotten


# Replies in one piece


async def test_a_whole_reply_is_said_once(model: ScriptedModel) -> None:
    async with asking(model, "complete") as (asked, call):
        assert call.path == "/chat"
        await call.answer("안녕하세요! 저는 믿음입니다.", usage=USAGE)
    assert asked.said == [("안녕하세요! 저는 믿음입니다.", 1)]
    assert asked.ending == Ending("stop", total_pieces=1, usage=Usage(74, 6, 80))


async def test_an_empty_reply_is_not_said(model: ScriptedModel) -> None:
    async with asking(model, "complete") as (asked, call):
        await call.answer("")
    assert asked.said == []
    assert asked.ending is not None
    assert asked.ending.total_pieces == 0


async def test_as_many_tokens_as_allowed_is_length(model: ScriptedModel) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 128, "total_tokens": 129}
    async with asking(model, "complete") as (asked, call):
        await call.answer("잘린", usage=usage)
    assert asked.ending == Ending("length", total_pieces=1, usage=Usage(1, 128, 129))


@pytest.mark.parametrize(
    "usage",
    [None, {}, [], "many", USAGE | {"prompt_tokens": "1"}, USAGE | {"total_tokens": True}]
    + [USAGE | {"completion_tokens": value} for value in (-1, 1.5, None)],
)
async def test_usage_that_makes_no_sense_is_none(model: ScriptedModel, usage: Any) -> None:
    async with asking(model, "complete") as (asked, call):
        await call.json({"response": "글", "usage": usage})
    assert asked.ending == Ending("stop", total_pieces=1, usage=None)


@pytest.mark.parametrize("answer", [{}, [], None, "글", {"response": None}, {"response": ["글"]}])
async def test_an_answer_without_response_is_a_failure(model: ScriptedModel, answer: Any) -> None:
    async with asking(model, "complete") as (asked, call):
        await call.json(answer)
    assert type(asked.error) is UpstreamFailed
    assert asked.said == []


async def test_an_answer_that_is_too_long_is_a_failure(model: ScriptedModel) -> None:
    async with asking(model, "complete", max_reply_chars=10) as (asked, call):
        await call.answer("가" * 11)
    assert type(asked.error) is ReplyTooLong
    assert asked.text == "가" * 10


async def test_an_answer_without_end_is_not_read_to_its_end(model: ScriptedModel) -> None:
    async with asking(model, "complete", max_reply_chars=10) as (asked, call):
        await call.wire(b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 100_000)
        await call.closed()
    assert type(asked.error) is UpstreamFailed


# Health


async def test_healthy_means_that_the_model_is_loaded(model: ScriptedModel) -> None:
    async with driver(model.url) as midm:
        assert await midm.healthy()
        model.health = HEALTH.replace(b'"model_loaded":true', b'"model_loaded":false')
        assert not await midm.healthy()


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"status":"healthy"}', b'{"model_loaded":1}', b"\xff"]
)
async def test_an_answer_that_is_not_midms_is_not_healthy(
    model: ScriptedModel, body: bytes
) -> None:
    model.health = body
    async with driver(model.url) as midm:
        assert not await midm.healthy()


async def test_a_status_other_than_200_is_not_healthy() -> None:
    async def refuse(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 200\r\n\r\n" + HEALTH)

    async with listening(refuse) as port, driver(f"http://127.0.0.1:{port}") as midm:
        assert not await midm.healthy()


async def test_a_health_check_that_hangs_has_its_own_limit(model: ScriptedModel) -> None:
    model.health = None
    async with driver(model.url) as midm:
        with pytest.raises(UpstreamTimeout):
            await midm.healthy(timeout_s=0.05)


# What must never be sent


@pytest.mark.parametrize(
    ("messages", "generation", "why"),
    [
        ((), {}, "no message"),
        ((PromptMessage("user", " \n"),), {}, "blank"),
        ((PromptMessage("user", "a\ud83d"),), {}, "not storable"),
        ((PromptMessage("assistant", "a\0"), *QUESTION), {}, "not storable"),
        ((PromptMessage("tool", "x"),), {}, "role"),  # type: ignore[arg-type]
        (QUESTION, {"max_new_tokens": 0}, "max_new_tokens"),
        (QUESTION, {"temperature": 0.0}, "temperature"),
        (QUESTION, {"temperature": -1.0}, "temperature"),
        (QUESTION, {"temperature": float("nan")}, "temperature"),
        (QUESTION, {"temperature": float("inf")}, "JSON"),
    ],
)
async def test_what_freezes_or_confuses_the_server_is_not_sent(
    model: ScriptedModel, messages: Any, generation: dict[str, Any], why: str
) -> None:
    settings = Generation(
        **{"max_new_tokens": 128, "temperature": 0.7, "do_sample": True, **generation}
    )
    async with driver(model.url) as midm:
        for ask in (midm.stream, midm.complete):
            with pytest.raises(ValueError, match=why):
                await ask(messages, settings, Asked().say)
    assert model.connections == 0


async def test_temperature_does_not_matter_without_sampling(model: ScriptedModel) -> None:
    greedy = Generation(max_new_tokens=1, temperature=0.0, do_sample=False)
    async with asking(model, generation=greedy) as (asked, call):
        await call.complete()
    assert asked.ending is not None


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://h", "http://", "/chat", "http://h:x"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ValueError, match="not the address"):
        Midm(url)


async def test_a_limit_that_has_been_reached_is_not_moved() -> None:
    limit = Limit(0.0, UpstreamTimeout)

    async def go_on() -> None:
        async with limit.timer:
            await anyio.lowlevel.checkpoint()
            limit.move(60.0, UpstreamStalled)
            await anyio.sleep_forever()

    with pytest.raises(TimeoutError):
        await go_on()
    assert (limit.error, limit.seconds) == (UpstreamTimeout, 0.0)
