"""What uvicorn would log of its clients' doings, and what is left of it."""

import asyncio
import logging
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

from gateway.listening import PeerLimits
from gateway.log_lines import (
    FORMAT,
    MAX_LINE_CHARS,
    MAX_TRACEBACK_LINES,
    OneLine,
)
from gateway.logging import (
    A_MINUTE_S,
    MAX_A_MINUTE,
    Seldom,
    is_no_cancellation,
    is_no_mistake_of_a_client,
    set_up_logging,
    without_queries,
)
from gateway.secrets import without_secrets
from tests.gateway.harness import on_sockets, settings_for
from tests.gateway.peers import CLOSE, Peer, Served, serving, until

FAILED = "Exception in ASGI application\n"


class Heard(logging.Handler):
    """Keeps what passes the filters."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(logging.Formatter("%(levelname)s %(message)s").format(record))


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """All that the gateway's process would log, were every level let through."""
    root, uvicorn = logging.getLogger(), logging.getLogger("uvicorn.error")
    handler = Heard()
    before = (root.handlers[:], root.level)
    ours = {
        name: logging.getLogger(name).level for name in ("gateway", "storage", "llm", "protocol")
    }
    set_up_logging(debug=False)
    root.addHandler(handler)
    monkeypatch.setattr(uvicorn, "level", logging.INFO)
    yield handler.lines
    root.handlers[:], level = before
    root.setLevel(level)
    for name, level in ours.items():
        logging.getLogger(name).setLevel(level)
    uvicorn.filters.clear()
    logging.getLogger("asyncio").filters.clear()


def record(message: str, *args: Any, error: BaseException | None = None) -> logging.LogRecord:
    exc_info = (type(error), error, None) if error else None
    return logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, message, args, exc_info)


@pytest.mark.parametrize(
    ("message", "error", "matters"),
    [
        (FAILED, asyncio.CancelledError(), False),
        (FAILED, ValueError("ours"), True),
        (FAILED, ExceptionGroup("", [ValueError("ours")]), True),
        (FAILED, None, True),
        ("something else", asyncio.CancelledError(), True),
    ],
)
def test_a_cancelled_request_is_no_failure_and_everything_else_is(
    message: str, error: BaseException | None, matters: bool
) -> None:
    assert is_no_cancellation(record(message, error=error)) is matters


@pytest.mark.parametrize(
    "line", ["Unsupported upgrade request.", "socket.send() raised exception."]
)
def test_what_one_peer_could_have_logged_for_ever_is_not_logged(line: str) -> None:
    assert not is_no_mistake_of_a_client(record(line))
    assert is_no_mistake_of_a_client(record(f"{line} And more."))


def test_a_frame_that_is_no_utf8_is_not_our_mistake() -> None:
    error = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid")
    assert not is_no_mistake_of_a_client(
        record("Invalid UTF-8 sequence received from client.", error=error)
    )
    assert is_no_mistake_of_a_client(record(FAILED, error=error))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("127.0.0.1:1", "/ws?ticket=secret"), '127.0.0.1:1 - "WebSocket /ws" [accepted]'),
        (("127.0.0.1:1", "/ws"), '127.0.0.1:1 - "WebSocket /ws" [accepted]'),
        (("what?", "why?"), 'what? - "WebSocket why?" [accepted]'),
    ],
)
def test_of_a_url_the_path_is_logged(args: tuple[str, ...], said: str) -> None:
    line = record('%s - "WebSocket %s" [accepted]', *args)
    assert without_queries(line)
    assert line.getMessage() == said


def test_a_header_for_a_collector_that_cannot_be_read_is_not_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # A colon for an equals sign.
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key: hunter2")
    set_up_logging(debug=False)
    logging.getLogger().addHandler(caplog.handler)
    OTLPSpanExporter().shutdown()  # type: ignore[no-untyped-call]
    assert "Header format invalid!" in caplog.text
    assert "hunter2" not in caplog.text


def test_lines_without_arguments_and_with_a_mapping_pass() -> None:
    for line in (record("plain"), record("%(a)s", {"a": 1})):
        assert without_queries(line)
        assert line.getMessage() in ("plain", "1")


async def invalid_utf8(served: Served) -> None:
    async with Peer(served.url) as peer:
        await peer.open(after="secret")
        await peer.say(1, b"\xff\xfe")
        assert await peer.raw_frame() == (CLOSE, (1007).to_bytes(2, "big"))


async def invalid_utf8_and_a_close_frame(served: Served) -> None:
    async with Peer(served.url) as peer:
        await peer.open(after="secret")
        await peer.send(bytes((0x81, 0x81, 0, 0, 0, 0, 0xFF)) + bytes((0x88, 0x80, 0, 0, 0, 0)))
        assert await peer.raw_frame() == (CLOSE, b"")
        assert await peer.rest() == b""


async def another_protocol(served: Served) -> None:
    async with Peer(served.url) as peer:
        for _ in range(3):
            await peer.request("GET", "/ws?ticket=secret", Connection="Upgrade", Upgrade="h2c")
            assert b" 404 " in await peer.until(b"\r\n\r\n")


async def another_origin(served: Served) -> None:
    async with Peer(served.url) as peer:
        await peer.request(
            "GET",
            "/ws?ticket=secret",
            Origin="https://evil.example",
            Connection="Upgrade",
            Upgrade="websocket",
            Sec_WebSocket_Version="13",
            Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
        )
        assert b" 403 " in await peer.rest()


async def leaving_in_the_middle_of_a_body(served: Served) -> None:
    async with Peer(served.url) as peer:
        await peer.send(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        await until(lambda: bool(served.server.server_state.tasks))
    await until(lambda: not served.server.server_state.tasks)


async def leaving_without_a_word(served: Served) -> None:
    async with Peer(served.url) as peer:
        await peer.open()
    await served.all_gone()


@pytest.mark.parametrize(
    "doing",
    [
        invalid_utf8,
        invalid_utf8_and_a_close_frame,
        another_protocol,
        another_origin,
        leaving_in_the_middle_of_a_body,
        leaving_without_a_word,
    ],
)
async def test_what_clients_do_is_no_error_of_ours_and_their_queries_are_not_logged(
    doing: Any, heard: list[str], tmp_path: Path
) -> None:
    async with serving(tmp_path, PeerLimits()) as served:
        await doing(served)
    assert [line for line in heard if "Traceback" in line or line.startswith("ERROR")] == []
    assert "secret" not in "".join(heard)


async def test_a_request_cancelled_at_the_end_of_the_stop_is_one_line(
    heard: list[str], tmp_path: Path
) -> None:
    limits = PeerLimits(close_s=60)
    async with serving(tmp_path, limits) as served, Peer(served.url) as peer:
        served.server.config.timeout_graceful_shutdown = 1
        await peer.send(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        await until(lambda: bool(served.server.server_state.tasks))
        served.server.stop()
        await until(lambda: not served.server.server_state.tasks)
    assert "Traceback" not in "".join(heard)
    [line] = [line for line in heard if line.startswith("ERROR")]
    assert line == "ERROR Cancel 1 running task(s), timeout graceful shutdown exceeded"


async def test_a_mistake_of_ours_is_logged_with_its_traceback(
    heard: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def mistaken(*_: object) -> None:
        raise ValueError("ours")

    async with serving(tmp_path, PeerLimits()) as served:
        monkeypatch.setattr(type(served.server.app.state.house.probe), "model", mistaken)
        async with Peer(served.url) as peer:
            await peer.request("GET", "/api/health", Connection="close")
            assert b" 500 " in await peer.rest()
    assert any("Traceback" in line and "ValueError: ours" in line for line in heard)


async def test_the_password_of_the_model_server_is_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with on_sockets(settings_for(tmp_path / "chat.db", "http://user:hush@127.0.0.1:1")):
        pass
    assert "http://user:[secret]@127.0.0.1:1" in caplog.text
    assert "hush" not in caplog.text


# What a line looks like


def written(message: str, *args: Any, error: BaseException | None = None) -> str:
    return OneLine(FORMAT).format(record(message, *args, error=error))


def raised(error: BaseException) -> BaseException:
    """Give an exception a traceback, as it has by the time that it is logged."""
    try:
        raise error
    except BaseException as found:
        return found


@pytest.mark.parametrize(
    ("said", "logged"),
    [
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[2J\x07\x00\x7f", r"\x1b[2J\x07\x00\x7f"),
        ("\x85\x9b", r"\x85\x9b"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("\u202egnp.exe\u2066\u2069\u200f", r"\u202egnp.exe\u2066\u2069\u200f"),
        ("\ud800", r"\ud800"),
        ("안녕하세요 ñ 👩‍👧 \\", "안녕하세요 ñ 👩‍👧 \\"),
    ],
)
def test_what_is_no_plain_text_is_logged_by_its_name(said: str, logged: str) -> None:
    assert written("%s", said).endswith(f"uvicorn.error: {logged}")


def test_what_was_raised_is_indented_whoever_formatted_it_before() -> None:
    forged = "no\n2026-01-01 00:00:00,000 INFO    gateway: all is well\u2028\x1b[2J"
    line = record("failed: %s", "x\ny", error=raised(ValueError(forged)))
    line.exc_info = (ValueError, raised(ValueError(forged)), None)
    logging.Formatter().format(line)
    line.stack_info = "Stack (most recent call last):\nforged"
    first, *rest = OneLine(FORMAT).format(line).split("\n")
    assert first.endswith(r"failed: x\ny")
    assert all(each.startswith("  ") for each in rest)
    assert "  ValueError: no" in rest
    assert r"  2026-01-01 00:00:00,000 INFO    gateway: all is well\u2028\x1b[2J" in rest
    assert rest[-1] == "  forged"


def test_the_line_break_at_the_end_of_a_message_is_none() -> None:
    assert written(FAILED).endswith("Exception in ASGI application")


def test_arguments_that_do_not_fit_are_no_reason_to_say_nothing() -> None:
    assert written("one %s and %s\n", "x").endswith(
        r"one %s and %s\n, which its arguments do not fit"
    )


@pytest.mark.parametrize("more", [0, 1, 1_000_000])
def test_a_line_is_cut_and_says_how_much_is_missing(more: int) -> None:
    begun = len(written(""))
    line = written("x" * (MAX_LINE_CHARS - begun + more))
    assert len(line) <= MAX_LINE_CHARS
    cut = re.search(r"(x+)… \((\d+) characters more\)$", line)
    assert (cut is not None) == (more > 0)
    if cut:
        assert len(cut[1]) + int(cut[2]) == MAX_LINE_CHARS - begun + more


def test_of_a_long_traceback_the_beginning_and_the_end_are_kept() -> None:
    lines = written("", error=ValueError("first\n" + "x\n" * 10_000 + "last")).split("\n")
    assert len(lines) == MAX_TRACEBACK_LINES + 2
    assert lines[1] == "  ValueError: first"
    assert lines[-1] == "  last"
    assert "  … (9802 lines more)" in lines


KEY = "midm_abcdefg2_c2VjcmV0LXNlY3JldA"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJtZSJ9.c2lnbmF0dXJl-_"


@pytest.mark.parametrize(
    ("said", "logged"),
    [
        ("Authorization: Bearer abc.DEF-123=", "Authorization: Bearer [secret]"),
        ("midm.chat.v1, bearer.abc-123", "midm.chat.v1, bearer.[secret]"),
        ("['BEARER abc']", "['BEARER [secret]']"),
        (f"the key {KEY} is old", "the key [secret] is old"),
        (f"key={KEY}", "key=[secret]"),
        ("/ws?ticket=abc&session_id=1", "/ws?ticket=[secret]&session_id=1"),
        ("access_token=abc token=def;", "access_token=[secret] token=[secret];"),
        (f"a {JWT}, and ({JWT})", "a [secret], and ([secret])"),
        ("redis://user:pa:s@s@host:1/0", "redis://user:[secret]@host:1/0"),
        ("redis://:pass@host/0", "redis://:[secret]@host/0"),
        ("postgresql://me:pass@a:1,b:2/db", "postgresql://me:[secret]@a:1,b:2/db"),
        ("postgresql://a/db?password=pa%40s&x=1", "postgresql://a/db?password=[secret]&x=1"),
        ("rediss://host/0?ssl_password=pass", "rediss://host/0?ssl_password=[secret]"),
        ("http://user@host/a:b@c", "http://user@host/a:b@c"),
        ("http://host:80/ eyJ eyJ.x midm_short_x", "http://host:80/ eyJ eyJ.x midm_short_x"),
        ("the bearer", "the bearer"),
        ("token_count=5", "token_count=5"),
    ],
)
def test_what_looks_like_a_secret_is_left_out(said: str, logged: str) -> None:
    assert without_secrets(said) == logged
    assert written("%s", said).endswith(logged)


def test_what_looks_like_a_secret_is_left_out_of_tracebacks_and_of_what_is_cut() -> None:
    assert "abc" not in written("", error=ValueError("Bearer abc"))
    begun = len(written(""))
    padding = "x" * (MAX_LINE_CHARS - begun - 60)
    assert "eyJ" not in written(f"{padding} {JWT} and more" + "x" * 100)


@pytest.mark.parametrize("text", ["eyJ", "bearer ", "eyJ-a.", "://a:", "midm_", "ticket="])
def test_to_look_for_secrets_takes_no_time_to_speak_of(text: str) -> None:
    began = time.process_time()
    without_secrets(text * (1_000_000 // len(text)))
    assert time.process_time() - began < 2.0


ANY_TEXT = st.text(st.characters() | st.sampled_from("\n\r\x1b\x85\u2028\u202e\ud800"))


@given(ANY_TEXT, ANY_TEXT, st.booleans())
def test_every_record_is_one_line_and_what_is_indented(
    message: str, told: str, chained: bool
) -> None:
    error = ValueError(told)
    error.__cause__ = raised(KeyError(message)) if chained else None
    error.add_note(message)
    first, *rest = written(message, error=raised(ExceptionGroup(told, [error]))).split("\n")
    assert re.match(r"\d{4}-\d\d-\d\d ", first)
    assert all(line.startswith("  ") for line in rest)
    for line in (first, *rest):
        assert len(line) <= MAX_LINE_CHARS
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", line)
        assert line.splitlines() in ([line], [])
        line.encode()


# How often


def test_what_strangers_provoke_is_said_so_often_a_minute_and_no_more() -> None:
    now = 0.0
    seldom = Seldom(clock=lambda: now)

    def passed(message: str) -> int:
        return sum(seldom.filter(record(message)) for _ in range(100))

    assert passed("refused a WebSocket: 403, this machine") == MAX_A_MINUTE
    assert passed("Invalid HTTP request received.") == MAX_A_MINUTE
    assert passed("an export was cut short: session_not_found") == MAX_A_MINUTE
    assert passed("ASGI callable returned without completing response.") == MAX_A_MINUTE
    assert passed("turn 1 failed") == 100
    now = A_MINUTE_S - 1
    assert passed("refused a WebSocket: 403, this machine") == 0
    now = A_MINUTE_S
    assert passed("refused a WebSocket: 403, this machine") == MAX_A_MINUTE


def test_that_no_file_is_left_is_said_without_a_traceback() -> None:
    line = record(
        "socket.accept() out of system resource\nsocket: <x>", error=raised(OSError(24, "no"))
    )
    assert Seldom().filter(line)
    logged = OneLine(FORMAT).format(line)
    assert " WARNING uvicorn.error: socket.accept() out of system resource" in logged
    assert "OSError" not in logged


def test_all_that_is_written_to_standard_error_is_written_so(
    heard: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    [ours] = [each for each in logging.getLogger().handlers if isinstance(each.formatter, OneLine)]
    assert isinstance(ours, logging.StreamHandler)
    ours.setStream(sys.stderr)
    for _ in range(100):
        logging.getLogger("gateway.handshake").warning("refused a WebSocket: 403, this machine")
    logging.getLogger("gateway").error("a\nb Bearer abc", exc_info=ValueError("x\ny"))
    *refusals, line, error, told = capsys.readouterr().err.splitlines()
    assert len(refusals) == MAX_A_MINUTE
    assert line.endswith(r"gateway: a\nb Bearer [secret]")
    assert (error, told) == ("  ValueError: x", "  y")
    assert "a\nb Bearer abc" in "".join(heard), "what others make of a record is theirs"
