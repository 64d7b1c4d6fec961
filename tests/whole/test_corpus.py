"""Whatever is sent, and however, it is answered in kind, and nobody else notices."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import cycle, islice
from pathlib import Path

import httpx
import pytest

from protocol.client_frames import parse_client_frame
from protocol.errors import ErrorCode, Refusal
from tests.corpus.reading import DIRECTORY, FILES, Sample, corpus
from tests.faults.leaks import Held, nothing_more_is_held_than
from tests.gateway.harness import on_sockets, settings_for
from tests.whole.audit import StrictLog
from tests.whole.clients import Json, WebSocketClient
from tests.whole.processes import WITHIN_S, gateway, simulator
from tests.whole.rude import WAYS, Way, socket_url

MAX_BYTES = 200_000
UNLIMITED = dict.fromkeys(
    (
        *("sessions_per_minute", "messages_per_minute", "handshakes_per_minute"),
        *("max_sessions", "max_open_turns", "max_queued_turns"),
    ),
    0,
)
EVERY = 6
"""Of every so many samples one is enough to see whether something stays behind."""

OURS = {"gateway", "storage", "llm", "protocol", "asyncio"}
NO_TURNS = {"running_turns": 0, "queued_turns": 0}


def unlimited() -> dict[str, str]:
    """Lift, for a program, the limits that one client runs into who is in a hurry."""
    return {name.upper(): str(limit) for name, limit in UNLIMITED.items()}


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """Ask over HTTP, as long as it takes."""
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=WITHIN_S) as http:
        yield http


async def send(samples: Iterable[Sample], way: Way, http: httpx.AsyncClient) -> None:
    """Send them, one after the other, in one way."""
    for sample in samples:
        try:
            await way(http, sample)
        except Exception as error:
            error.add_note(f"sent {way.__name__}: {sample.name}")
            raise


async def health_becomes(http: httpx.AsyncClient, **expected: object) -> None:
    """Wait until the gateway tells of itself that it is so; it is asked again and again."""
    told: Json = {}
    async with asyncio.timeout(WITHIN_S):
        while not expected.items() <= told.items():
            told = (await http.get("/api/health")).json()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_nothing_that_is_sent_ends_the_gateway_or_disturbs_a_bystander(
    way: Way, tmp_path: Path
) -> None:
    async with (
        simulator(tmp_path, interval_ms=0) as model,
        gateway(tmp_path, LLM_SERVER_URL=model.url, **unlimited()) as program,
        client_of(program.url) as http,
    ):
        async with WebSocketClient(socket_url(http), log=StrictLog()) as bystander:
            before = await bystander.ask("전")
            await send(corpus(), way, http)
            after = await bystander.ask("후")
            assert bystander.connections == 1
            await health_becomes(http, status="healthy", connections=1, **NO_TURNS)
        assert await program.stop() == 0
    assert before.ending is not None
    assert after.ending is not None
    assert after.ending["finish_reason"] == before.ending["finish_reason"] == "stop"
    assert list(bystander.log.turns) == [1, 2]
    assert program.complaints == []


async def test_nothing_that_is_sent_leaves_a_task_or_a_socket_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    async with simulator(tmp_path, interval_ms=0) as model:
        settings = settings_for(tmp_path / "chat.db", model.url, **UNLIMITED)
        async with on_sockets(settings) as served, client_of(str(served.http.base_url)) as http:
            await health_becomes(http, status="healthy")
            before = Held.now()
            for way, first in zip(WAYS, cycle(range(EVERY)), strict=False):
                await send(islice(corpus(), first, None, EVERY), way, http)
            await health_becomes(http, status="healthy", connections=0, **NO_TURNS)
            await nothing_more_is_held_than(before)
    assert [record for record in caplog.records if record.name.split(".")[0] in OURS] == []


def test_the_corpus_is_small_and_each_of_its_samples_has_a_name() -> None:
    names = [sample.name for sample in corpus()]
    assert len(names) == len(set(names)) > 400
    assert sum(file.stat().st_size for file in FILES) < MAX_BYTES
    assert DIRECTORY / "bodies.jsonl" in FILES


def test_the_corpus_shows_every_fault_that_a_frame_can_have() -> None:
    assert {_fault(sample.text) for sample in corpus() if sample.text is not None} == {
        *(None, ErrorCode.BAD_JSON, ErrorCode.BAD_FRAME),
        *(ErrorCode.UNKNOWN_TYPE, ErrorCode.MESSAGE_TOO_LONG),
    }


def _fault(text: str) -> ErrorCode | None:
    try:
        parse_client_frame(text)
    except Refusal as refused:
        return refused.code
    return None
