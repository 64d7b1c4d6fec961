"""The simulator over real sockets: midm's bytes, its faults, and how it stops."""

import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from llm.simulator import SimulatorSettings, serve_simulator
from llm.simulator.script import pieces_of
from tests.llm.raw_http import (
    asked,
    call,
    contents,
    events,
    heard_until_the_end,
    is_complete,
    sent,
    until,
)

RECORDINGS = Path(__file__).parents[1] / "wire" / "midm"
AT_ONCE = SimulatorSettings(interval_ms=0, first_token_ms=0)

# Neither what midm itself answered (its connection broke, or it is not one of the three calls),
# nor a request that was recorded.
NOT_MIDMS = {
    "chat_client_abort",
    "health_head",
    "root",
    "server_killed_midstream",
    "stream_client_abort",
    "token_gap_61s",
}


def recorded(name: str) -> tuple[bytes, bytes]:
    request = (RECORDINGS / f"{name}.req").read_bytes()
    return request, (RECORDINGS / f"{name}.resp").read_bytes()


def recordings(wanted: Callable[[bytes], bool]) -> list[str]:
    names = {path.stem for path in RECORDINGS.glob("*.req")} - NOT_MIDMS
    return sorted(name for name in names if wanted(recorded(name)[1]))


def is_stream(reply: bytes) -> bool:
    return b"text/event-stream" in reply


def is_whole_reply(reply: bytes) -> bool:
    return b'{"response":' in reply


def is_neither(reply: bytes) -> bool:
    return not is_stream(reply) and not is_whole_reply(reply)


def undated(reply: bytes) -> bytes:
    # Python's own words for 422 changed in 3.13.
    reply = reply.replace(b"422 Unprocessable Content", b"422 Unprocessable Entity")
    return re.sub(rb"\r\ndate: [^\r]*", b"\r\ndate: some day", reply)


@pytest.fixture
async def url(caplog: pytest.LogCaptureFixture) -> AsyncIterator[str]:
    async with serve_simulator(AT_ONCE) as url:
        yield url
    assert [each.getMessage() for each in caplog.get_records("call")] == []


# The bytes of midm


@pytest.mark.parametrize("name", recordings(is_stream))
async def test_a_stream_is_byte_for_byte_what_midm_sends(name: str) -> None:
    request, reply = recorded(name)
    settings = replace(AT_ONCE, script=lambda _: contents(reply))
    async with serve_simulator(settings) as url:
        assert undated(await asked(url, request)) == undated(reply)


@pytest.mark.parametrize("name", recordings(is_neither))
async def test_what_is_refused_is_refused_in_midms_words(url: str, name: str) -> None:
    request, reply = recorded(name)
    assert undated(await asked(url, request)) == undated(reply)


@pytest.mark.parametrize("name", recordings(is_whole_reply))
async def test_a_whole_reply_differs_from_midms_in_its_counts_only(name: str) -> None:
    request, reply = recorded(name)
    text = json.loads(reply.partition(b"\r\n\r\n")[2])["response"]
    async with serve_simulator(replace(AT_ONCE, script=lambda _: pieces_of(text))) as url:
        assert countless(await asked(url, request)) == countless(reply)


def countless(reply: bytes) -> bytes:
    lengthless = re.sub(rb"content-length: \d+", b"content-length: n", undated(reply))
    return re.sub(rb'tokens":\d+', b'tokens":n', lengthless)


async def test_what_utf8_cannot_hold_is_refused_all_the_same(url: str) -> None:
    head, _, _ = call("/chat", "").partition(b"content-length")
    body = b'{"messages": "\\ud800"}'
    reply = await asked(url, head + b"content-length: %d\r\n\r\n%b" % (len(body), body))
    assert reply.startswith(b"HTTP/1.1 422 ")
    assert reply.endswith(b'"input":"?"}]}')


async def test_a_whole_reply_is_the_streamed_one_stripped() -> None:
    async with serve_simulator(replace(AT_ONCE, script=lambda _: ["  ", "안녕 ", "\n"])) as url:
        reply = await asked(url, call("/chat", "?"))
    assert '{"response":"안녕","usage":' in reply.decode()


async def test_the_limit_cuts_the_reply(url: str) -> None:
    whole = contents(await asked(url, call("/chat/stream", "안녕")))
    cut = contents(await asked(url, call("/chat/stream", "안녕", max_new_tokens=5)))
    assert cut == whole[:5]


# What a directive does


async def streamed(url: str, directive: str) -> bytes:
    return await asked(url, call("/chat/stream", f"안녕하세요 #sim {directive}#"))


async def test_pieces_are_as_many_as_asked_for_whatever_the_limit(url: str) -> None:
    request = call("/chat/stream", "hello #sim pieces=300#", max_new_tokens=5)
    assert len(contents(await asked(url, request))) == 300


async def test_an_error_comes_after_so_many_pieces(url: str) -> None:
    reply = await streamed(url, 'error_at=2 message="메모리 부족"')
    assert len(contents(reply)) == 2
    assert events(reply)[-1] == {"type": "error", "message": "메모리 부족"}
    assert b"\\uba54" in reply
    assert b"[DONE]" not in reply


async def test_an_error_is_empty_unless_asked_otherwise(url: str) -> None:
    assert events(await streamed(url, "error_at=0"))[1:] == [{"type": "error", "message": ""}]


async def test_a_stream_ends_without_its_complete_event(url: str) -> None:
    reply = await streamed(url, "end_at=3")
    assert [event["type"] for event in events(reply)] == ["start", "chunk", "chunk", "chunk"]
    assert b"[DONE]" not in reply


@pytest.mark.parametrize("pieces", [0, 1, 30])
async def test_a_cut_connection_delivered_its_pieces_and_no_last_chunk(
    url: str, pieces: int
) -> None:
    request = call("/chat/stream", f"#sim cut_at={pieces} pieces=30#")
    reply = await heard_until_the_end(url, request)
    assert len(contents(reply)) == pieces
    assert reply.endswith(b"}\n\n\r\n")


async def test_a_cut_connection_delivers_what_was_written_to_a_slow_reader() -> None:
    piece = "x" * 8_000_000  # more than the buffers of the sockets hold
    settings = replace(AT_ONCE, script=lambda _: [piece], faults="cut_at=1")
    async with serve_simulator(settings) as url:
        reply = await heard_until_the_end(url, call("/chat/stream", "hello"))
    assert contents(reply) == [piece]


async def test_a_whole_reply_can_be_cut_while_its_reader_is_slow(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = replace(AT_ONCE, script=lambda _: ["x" * 24_000_000], faults="cut_at=1")
    async with serve_simulator(settings) as url:
        reply = await heard_until_the_end(url, call("/chat", "hello"))
    assert reply.count(b"x") == pytest.approx(12_000_000, abs=100)
    assert caplog.records == []


async def test_a_stalled_stream_says_its_pieces_and_stays_open(url: str) -> None:
    async with sent(url, call("/chat/stream", "#sim stall_at=2#")) as stream:
        heard = await until(stream, lambda heard: len(contents(heard)) == 2)
        # Another whole conversation goes by meanwhile.
        await asked(url, call("/chat/stream", "#sim pieces=20#"))
        with anyio.move_on_after(0.02):
            heard += await stream.receive()
    assert events(heard)[-1]["token_count"] == 2


async def test_junk_surrounds_the_pieces_and_changes_nothing_else(url: str) -> None:
    reply = await streamed(url, "junk=1 pieces=20")
    data = [line for line in reply.splitlines() if line.startswith(b"data: ")]
    clean = [line for line in data if line.startswith(b'data: {"type": "chunk"') and b"}" in line]
    assert len(clean) == 20
    assert b"\n: still here\n\n" in reply
    assert b'data: [1, "two", null]\n\n' in reply


async def test_events_arrive_in_parts_that_are_no_utf8(url: str) -> None:
    reply = await streamed(url, "split_utf8=1 pieces=4")
    chunks = chunked(reply)
    with pytest.raises(UnicodeDecodeError):
        chunks[1].decode()
    whole = chunked(await streamed(url, "pieces=4"))
    assert b"".join(chunks) == b"".join(whole)
    assert len(chunks) > len(whole)


def chunked(reply: bytes) -> list[bytes]:
    rest, chunks = reply.partition(b"\r\n\r\n")[2], []
    while (size := int(rest.partition(b"\r\n")[0], 16)) > 0:
        start = rest.index(b"\r\n") + 2
        chunks.append(rest[start : start + size])
        rest = rest[start + size + 2 :]
    return chunks


async def test_line_separators_stand_raw_in_the_pieces(url: str) -> None:
    reply = await streamed(url, "u2028=1 pieces=3")
    for separator in ("\u2028", "\u2029", "\u0085"):
        assert separator.encode() in reply


@pytest.mark.parametrize("path", ["/chat", "/chat/stream"])
async def test_a_status_instead_of_a_reply(url: str, path: str) -> None:
    reply = await asked(url, call(path, '#sim status=500 message="CUDA out of memory"#'))
    assert reply.startswith(b"HTTP/1.1 500 ")
    assert reply.endswith(b'\r\n\r\n{"detail":"CUDA out of memory"}')
    reply = await asked(url, call(path, "#sim status=503#"))
    assert reply.startswith(b"HTTP/1.1 503 ")
    assert b"text/html" in reply
    assert b"<html>" in reply
    reply = await asked(url, call(path, "#sim status=422#"))
    assert reply.startswith(b"HTTP/1.1 422 ")
    assert b'{"detail":[{"type":' in reply


async def test_a_wrong_directive_is_refused_by_name(url: str) -> None:
    reply = await streamed(url, "pieces=3 colour=red")
    assert reply.startswith(b"HTTP/1.1 422 ")
    (detail,) = json.loads(reply.partition(b"\r\n\r\n")[2])["detail"]
    assert detail["loc"] == ["body", "messages", 0, "content"]
    assert detail["input"] == "colour=red"


async def test_whole_replies_fail_too(url: str) -> None:
    reply = await asked(url, call("/chat", "#sim error_at=2 message=oops#"))
    assert reply.startswith(b"HTTP/1.1 500 ")
    assert reply.endswith(b'{"detail":"oops"}')
    with pytest.raises(json.JSONDecodeError):
        json.loads((await asked(url, call("/chat", "#sim end_at=2#"))).partition(b"\r\n\r\n")[2])
    reply = await heard_until_the_end(url, call("/chat", "#sim cut_at=2#"))
    assert b'\r\n\r\n{"response":"[simulated]' in reply
    assert not is_complete(reply)


async def test_the_server_can_want_a_fault_of_every_call() -> None:
    async with serve_simulator(replace(AT_ONCE, faults="error_at=1")) as url:
        assert events(await streamed(url, ""))[-1]["type"] == "error"
        assert events(await streamed(url, "error_at=off"))[-1]["type"] == "complete"
