"""What uvicorn would log of its clients' doings, and what is left of it."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.listening import PeerLimits
from gateway.logging import (
    is_no_cancellation,
    is_no_mistake_of_a_client,
    set_up_logging,
    without_queries,
)
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


def test_lines_without_arguments_and_with_a_mapping_pass() -> None:
    for line in (record("plain"), record("%(a)s", {"a": 1})):
        assert without_queries(line)
        assert line.getMessage() in ("plain", "1")


async def invalid_utf8(served: Served) -> None:
    async with Peer(served.url) as peer:
        await peer.open(after="secret")
        await peer.say(1, b"\xff\xfe")
        assert await peer.raw_frame() == (CLOSE, (1007).to_bytes(2, "big"))


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
        await peer.send(b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        await until(lambda: bool(served.server.server_state.tasks))
    await until(lambda: not served.server.server_state.tasks)


async def leaving_without_a_word(served: Served) -> None:
    async with Peer(served.url) as peer:
        await peer.open()
    await served.all_gone()


@pytest.mark.parametrize(
    "doing",
    [invalid_utf8, another_origin, leaving_in_the_middle_of_a_body, leaving_without_a_word],
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
        await peer.send(b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
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
    async with on_sockets(settings_for(tmp_path / "chat.db", "http://user:secret@127.0.0.1:1")):
        pass
    assert "http://user@127.0.0.1:1" in caplog.text
    assert "secret" not in caplog.text
