"""`GET /api/health`: within a second and 200, whatever the model server does."""

import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway import health
from gateway.health import Probe
from llm.admission import Admission
from llm.circuit import Circuit
from llm.client import UpstreamTimeout, UpstreamUnavailable
from llm.queue import Queue
from storage.operations import StorageError
from tests.gateway.harness import Gateway, Json, call_of, in_process, settings_for
from tests.llm.scripted import ScriptedModel

WITHIN_A_SECOND = 1.0


async def asked(gateway: Gateway) -> Json:
    begun = time.monotonic()
    answer = await gateway.http.get("/api/health")
    assert time.monotonic() - begun < WITHIN_A_SECOND
    assert answer.status_code == 200
    told: Json = answer.json()
    return told


async def test_all_is_well(gateway: Gateway) -> None:
    told = await asked(gateway)
    assert told["timestamp"].endswith("Z")
    assert set(told) >= {"status", "timestamp", "llm_server_available", "database_connected"}
    assert told["status"] == "healthy"
    assert told["llm_server_available"] is True
    assert told["database_connected"] is True
    assert told["llm_server_busy"] is False
    assert told["simulated"] is False


async def test_it_counts_what_is_going_on(gateway: Gateway, model: ScriptedModel) -> None:
    async with gateway.tab() as tab, gateway.tab() as other:
        await tab.chat("hi")
        await call_of(model)
        await other.chat("waits")
        await other.next("queued")
        told = await asked(gateway)
    assert (told["connections"], told["running_turns"], told["queued_turns"]) == (2, 2, 1)


async def test_a_model_server_that_hangs_is_not_waited_for(
    tmp_path: Path, model: ScriptedModel
) -> None:
    model.health = None
    async with in_process(settings_for(tmp_path / "chat.db", model.url)) as gateway:
        told = await asked(gateway)
    assert (told["status"], told["llm_server_available"]) == ("degraded", False)
    assert told["database_connected"] is True


async def test_a_model_server_that_is_not_there_is_unavailable(
    tmp_path: Path, free_port: int
) -> None:
    url = f"http://127.0.0.1:{free_port}"
    async with in_process(settings_for(tmp_path / "chat.db", url)) as gateway:
        told = await asked(gateway)
        assert (told["status"], told["llm_server_available"]) == ("degraded", False)
        assert str(free_port) not in str(told)


@pytest.mark.parametrize(
    "body", [b'{"status":"healthy","model_loaded":false}', b"[]", b"not json", b"{}"]
)
async def test_a_model_that_is_not_loaded_is_not_available(
    tmp_path: Path, model: ScriptedModel, body: bytes
) -> None:
    # midm's word "healthy" is a constant.
    model.health = body
    async with in_process(settings_for(tmp_path / "chat.db", model.url)) as gateway:
        told = await asked(gateway)
    assert (told["status"], told["llm_server_available"]) == ("degraded", False)


async def test_a_database_that_does_not_answer_is_told(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hangs(*_: object) -> None:
        await anyio.sleep_forever()

    async def fails(*_: object) -> None:
        raise StorageError("disk I/O error")

    for trouble in (hangs, fails):
        with monkeypatch.context() as patched:
            patched.setattr(type(gateway.house.database), "read", trouble)
            told = await asked(gateway)
        assert (told["status"], told["database_connected"]) == ("degraded", False)
    assert (await asked(gateway))["status"] == "healthy"


class Mute:
    """A model server that gives each probe the next of these answers."""

    def __init__(self, *answers: bool | Exception) -> None:
        self.answers = list(answers)

    async def healthy(self) -> bool:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def probe_of(gateway: Gateway, driver: Any, admission: Admission) -> Probe:
    return Probe(
        driver=driver,
        circuit=Circuit(),
        admission=admission,
        database=gateway.house.database,
    )


@pytest.mark.parametrize(
    ("answer", "calling", "available", "busy"),
    [
        (True, False, True, False),
        (True, True, True, False),
        (False, True, False, False),
        # midm's event loop is blocked while it generates: silence is work then.
        (UpstreamTimeout("10.0.0.7"), True, True, True),
        (UpstreamTimeout("10.0.0.7"), False, False, False),
        (UpstreamUnavailable("10.0.0.7"), True, False, False),
        (UpstreamUnavailable("10.0.0.7"), False, False, False),
    ],
)
async def test_silence_while_a_call_runs_means_busy(
    gateway: Gateway, answer: bool | Exception, calling: bool, available: bool, busy: bool
) -> None:
    admission = Queue(max_calls=1, max_waiting=0)
    if calling:
        await admission.reserve()
    probe = probe_of(gateway, Mute(answer), admission)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(probe.run)
        found = await probe.model()
        tasks.cancel_scope.cancel()
    assert (found.available, found.busy) == (available, busy)


async def test_the_model_server_is_asked_again_and_again(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PROBE_EVERY_S", 0.0)
    troubles = (UpstreamTimeout("no answer"), False, UpstreamUnavailable("gone"))
    driver = Mute(*troubles, *[True] * 10_000)
    probe = probe_of(gateway, driver, Queue(max_calls=1, max_waiting=0))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(probe.run)
            while not (await probe.model()).available:
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    assert len(driver.answers) < 10_000
