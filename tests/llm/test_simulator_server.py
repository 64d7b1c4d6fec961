"""How the simulator keeps time, what it does when clients leave, and how it stops."""

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
import pytest
from anyio.abc import Process
from starlette.types import Message, Scope

from llm.simulator import SimulatorSettings, create_simulator, serve_simulator
from tests.llm.raw_http import PATIENCE_S, asked, call, contents, heard_until_the_end, sent, until

AT_ONCE = SimulatorSettings(interval_ms=0, first_token_ms=0)
HEALTH = b"GET /health HTTP/1.1\r\nhost: sim\r\n\r\n"
PROGRAM = "from llm.simulator import *; run_simulator(SimulatorSettings(interval_ms=0), port=0)"


@dataclass
class OversleepingClock:
    """Wakes up 7 ms late from every sleep, and never really waits."""

    time: float = 1000.0
    naps: int = 0

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.naps += 1
        self.time += seconds + 0.007 if seconds > 0 else 0.0
        await asyncio.sleep(0)


@dataclass
class Caller:
    """Calls the app without a socket and notes when, by its clock, each part of a reply came."""

    settings: SimulatorSettings
    clock: OversleepingClock = field(default_factory=OversleepingClock)

    def __post_init__(self) -> None:
        self.app = create_simulator(self.settings, clock=self.clock)

    async def call(self, request: bytes) -> list[tuple[float, bytes]]:
        head, _, body = request.partition(b"\r\n\r\n")
        method, path, _ = head.split(b"\r\n")[0].decode().split()
        unheard: list[Message] = [{"type": "http.request", "body": body}]
        came: list[tuple[float, bytes]] = []
        called = self.clock.time

        async def receive() -> Message:
            if not unheard:
                await anyio.sleep_forever()
            return unheard.pop()

        async def send(message: Message) -> None:
            came.append((self.clock.time - called, message.get("body", b"")))

        scope: Scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
        }
        with anyio.fail_after(PATIENCE_S):
            await self.app(scope, receive, send)
        return came


def chunk_times(came: list[tuple[float, bytes]]) -> list[float]:
    return [time for time, body in came if b'"chunk"' in body]


class Calls:
    """The tasks that work for calls: all that were not there when this was made."""

    def __init__(self) -> None:
        self.others = asyncio.all_tasks()

    def open(self) -> set[asyncio.Task[object]]:
        return asyncio.all_tasks() - self.others


async def all_end(tasks: set[asyncio.Task[object]]) -> bool:
    assert tasks
    _, pending = await asyncio.wait(tasks, timeout=PATIENCE_S)
    return not pending


@pytest.fixture
async def url(caplog: pytest.LogCaptureFixture) -> AsyncIterator[str]:
    async with serve_simulator(AT_ONCE) as url:
        yield url
    assert [each.getMessage() for each in caplog.get_records("call")] == []


# Time


async def test_lateness_does_not_add_up() -> None:
    caller = Caller(SimulatorSettings(interval_ms=40, first_token_ms=200))
    times = chunk_times(await caller.call(call("/chat/stream", "#sim pieces=50#")))
    assert times == pytest.approx([0.2 + 0.04 * n + 0.007 for n in range(50)])


async def test_a_directive_sets_the_pace_of_one_call() -> None:
    caller = Caller(SimulatorSettings())
    directive = "#sim pieces=3 delay_ms=1000 first_token_ms=500 interval_ms=100#"
    came = await caller.call(call("/chat/stream", directive))
    assert came[0][0] == pytest.approx(1.007)
    assert chunk_times(came) == pytest.approx([1.514, 1.614, 1.714])


async def test_a_whole_reply_takes_as_long_as_its_stream() -> None:
    caller = Caller(SimulatorSettings(interval_ms=40, first_token_ms=200))
    came = await caller.call(call("/chat", "#sim pieces=11#"))
    assert came[0][0] == pytest.approx(0.6 + 0.007)


async def test_a_stream_without_intervals_lets_others_have_their_turn_at_every_piece() -> None:
    caller = Caller(AT_ONCE)
    await caller.call(call("/chat/stream", "#sim pieces=50#"))
    assert caller.clock.naps >= 50
    assert caller.clock.time == 1000.0


async def test_health_can_be_slow() -> None:
    caller = Caller(replace(AT_ONCE, slow_health_ms=3000))
    assert (await caller.call(HEALTH))[0][0] == pytest.approx(3.007)


async def test_an_impossible_request_freezes_everybody_if_it_may() -> None:
    caller = Caller(replace(AT_ONCE, freeze_ms=60_000))
    came: list[list[tuple[float, bytes]]] = []

    async def frozen() -> None:
        came.append(await caller.call(call("/chat/stream", "hello", max_new_tokens=0)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(frozen)
        await anyio.wait_all_tasks_blocked()
    assert [time for time, body in came[0] if b'"start"' in body] == [0.0]
    assert [time for time, body in came[0] if b'"error"' in body] == pytest.approx([60.007])


async def test_while_frozen_even_health_is_mute() -> None:
    caller = Caller(replace(AT_ONCE, freeze_ms=60_000))
    await caller.call(call("/chat/stream", "hello", max_new_tokens=0))
    caller.clock.time -= 50
    assert (await caller.call(HEALTH))[0][0] == pytest.approx(50, abs=0.02)


# Leaving


@pytest.mark.parametrize("directive", ["interval_ms=5", "stall_at=2", "pieces=100000"])
async def test_a_client_that_leaves_stops_its_stream(url: str, directive: str) -> None:
    calls = Calls()
    async with sent(url, call("/chat/stream", f"#sim {directive}#")) as stream:
        await until(stream, lambda heard: len(contents(heard)) >= 2)
        working = calls.open()
    assert await all_end(working)


@pytest.mark.parametrize("path", ["/chat", "/chat/stream"])
async def test_a_client_that_leaves_before_the_reply_stops_the_wait_for_it(
    url: str, path: str
) -> None:
    calls = Calls()
    async with sent(url, call(path, "#sim delay_ms=600000#")):
        await anyio.wait_all_tasks_blocked()
        working = calls.open()
    assert await all_end(working)


async def test_a_client_that_leaves_within_its_request_is_no_news(url: str) -> None:
    calls = Calls()
    async with sent(url, call("/chat", "hello")[:-5]):
        await anyio.wait_all_tasks_blocked()
        working = calls.open()
    assert await all_end(working)


# Stopping


@pytest.mark.parametrize("directive", ["interval_ms=5", "stall_at=2", "pieces=100000"])
async def test_it_stops_at_once_and_silently_while_streams_are_open(
    directive: str, caplog: pytest.LogCaptureFixture
) -> None:
    calls = Calls()
    request = call("/chat/stream", f"#sim {directive}#")
    async with AsyncExitStack() as server:
        url = await server.enter_async_context(serve_simulator(AT_ONCE))
        async with sent(url, request) as reader, sent(url, request):  # the other one never reads
            await until(reader, lambda heard: len(contents(heard)) >= 2)
            await anyio.wait_all_tasks_blocked()  # by now nothing more fits into the sockets
            with anyio.fail_after(1):
                await server.aclose()
            assert calls.open() == set()
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await until(reader, lambda heard: b"[DONE]" in heard)
    assert caplog.records == []


async def test_it_stops_when_its_owner_is_cancelled() -> None:
    calls = Calls()
    with anyio.move_on_after(PATIENCE_S) as owner:
        async with serve_simulator(AT_ONCE) as url, sent(url, call("/chat", "#sim stall_at=0#")):
            await anyio.wait_all_tasks_blocked()
            assert calls.open()
            owner.cancel()
            await anyio.sleep_forever()
    assert calls.open() == set()


async def test_an_error_of_its_owner_comes_out_as_it_is() -> None:
    with pytest.raises(LookupError):
        async with serve_simulator(AT_ONCE):
            raise LookupError


async def test_a_port_in_use_is_an_error_of_the_caller(url: str) -> None:
    port = int(url.rpartition(":")[2])
    with pytest.raises(OSError, match="in use"):
        async with serve_simulator(AT_ONCE, port=port):
            pass


async def test_it_leaves_signals_and_the_loggers_of_other_servers_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handlers = [logging.NullHandler()]
    loggers = [logging.getLogger(f"uvicorn{name}") for name in ("", ".error", ".access", ".asgi")]
    for logger in loggers:
        monkeypatch.setattr(logger, "handlers", handlers)
        monkeypatch.setattr(logger, "propagate", True)
        monkeypatch.setattr(logger, "level", logging.CRITICAL)
    handled = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    async with serve_simulator(AT_ONCE) as url:
        await asked(url, HEALTH)
        assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handled
    for logger in loggers:
        assert logger.handlers is handlers
        assert (logger.propagate, logger.level) == (True, logging.CRITICAL)


async def test_it_complains_under_a_name_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    async with serve_simulator(AT_ONCE) as url:
        reply = await heard_until_the_end(url, b"not HTTP at all\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert [record.name for record in caplog.records] == ["llm.simulator"]


async def test_the_app_can_close_its_connection_under_this_server() -> None:
    """Pins what is uvicorn's private matter: without it, `cut_at` has nothing to cut with."""
    async with serve_simulator(replace(AT_ONCE, faults="cut_at=0")) as url:
        assert (await heard_until_the_end(url, call("/chat/stream", "hello"))).count(b"data:") == 1


# As a program


@asynccontextmanager
async def program() -> AsyncIterator[tuple[Process, str]]:
    with anyio.fail_after(3 * PATIENCE_S):
        root = Path(__file__).parents[2]
        async with await anyio.open_process([sys.executable, "-c", PROGRAM], cwd=root) as process:
            assert process.stdout is not None
            line = (await process.stdout.receive()).decode()
            yield process, line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_program_says_where_it_listens_and_ends_well(number: signal.Signals) -> None:
    async with program() as (process, line):
        said, _, url = line.strip().rpartition(" ")
        assert "Simulated" in said
        cut = await heard_until_the_end(url, call("/chat/stream", "#sim pieces=30 cut_at=30#"))
        assert len(contents(cut)) == 30
        async with sent(url, call("/chat/stream", "#sim stall_at=1#")) as stream:
            await until(stream, lambda heard: len(contents(heard)) == 1)
            process.send_signal(number)
            assert await process.wait() == 0
        assert process.stderr is not None
        with pytest.raises(anyio.EndOfStream):
            pytest.fail((await process.stderr.receive()).decode())
