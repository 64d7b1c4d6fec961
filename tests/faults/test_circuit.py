"""A model server that failed often is not asked in vain, and nothing is stored meanwhile."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import anyio
import pytest

from tests.faults import faulty as f
from tests.faults.faulty import GOOD, FaultyModel, MuteHealth, faulty, in_turn
from tests.faults.transports import TRANSPORTS, Ask, Seen
from tests.gateway.harness import WITHIN_S, Gateway, Tab, in_process, on_sockets, settings_for

FAILURES = 5
BROKEN = f.said_then(f.cut)
"""A failure of the server that is not repeated."""


def serving(
    tmp_path: Path, model: FaultyModel, **more: float
) -> AbstractAsyncContextManager[Gateway]:
    """A gateway in this process."""
    return in_process(settings_for(tmp_path / "chat.db", model.url, **more))


async def fail(tab: Tab, times: int, *, called: str = "failed") -> None:
    """Have so many turns end with an error."""
    for number in range(times):
        accepted = await tab.chat("hi", request_id=f"{called}-{number}")
        assert (await tab.ends(accepted["turn"]))["type"] == "error"


@asynccontextmanager
async def opened(tmp_path: Path) -> AsyncIterator[tuple[MuteHealth, FaultyModel, Gateway, Tab]]:
    """A gateway whose circuit is open, and whose first probe is not answered yet."""
    health = MuteHealth()
    async with (
        faulty(BROKEN, model=health) as model,
        serving(tmp_path, model) as gateway,
        gateway.tab() as tab,
    ):
        await fail(tab, FAILURES)
        yield health, model, gateway, tab


async def find_well(gateway: Gateway, health: MuteHealth) -> None:
    """Let the server answer the probe, and wait until it has heard."""
    health.tells.set()
    with anyio.fail_after(WITHIN_S):
        while not (await gateway.house.probe.model()).available:  # noqa: ASYNC110
            await anyio.sleep(0.01)


async def test_after_five_failures_a_message_is_refused_before_anything_is_stored(
    tmp_path: Path,
) -> None:
    async with (
        faulty(BROKEN) as model,
        serving(tmp_path, model) as gateway,
        gateway.tab() as tab,
    ):
        await gateway.house.probe.model()
        await fail(tab, FAILURES)
        stored = gateway.rows("SELECT * FROM turns"), gateway.rows("SELECT * FROM messages")
        error = await tab.refused(type="chat", message="hi", request_id="r1")
        assert (error["code"], error["request_id"]) == ("upstream_unavailable", "r1")
        assert error["retryable"] is True
        assert 0 < error["retry_after_ms"] <= 10_001
        assert {"id", "turn"}.isdisjoint(error)
        assert stored == (
            gateway.rows("SELECT * FROM turns"),
            gateway.rows("SELECT * FROM messages"),
        )
    assert len(model.calls) == FAILURES


@pytest.mark.parametrize("ask", TRANSPORTS)
async def test_every_transport_is_refused_alike(tmp_path: Path, ask: Ask) -> None:
    async with (
        faulty(BROKEN) as model,
        on_sockets(settings_for(tmp_path / "chat.db", model.url)) as gateway,
        gateway.tab() as tab,
    ):
        await gateway.house.probe.model()
        await fail(tab, FAILURES)
        seen = await ask(gateway, tab.session_id, {"message": "hi"})
        check_refused(seen)


def check_refused(seen: Seen) -> None:
    """A refusal says when to come again, and ends no turn."""
    assert (seen.end["code"], seen.end["retryable"]) == ("upstream_unavailable", True)
    assert seen.end["retry_after_ms"] > 0
    assert seen.end.get("turn") is None
    if seen.transport != "websocket":
        assert seen.status == seen.end["status"] == 502
        assert 0 < int(seen.headers["retry-after"]) <= 11


async def test_a_repeat_is_recognised_while_new_messages_are_refused(tmp_path: Path) -> None:
    async with (
        faulty(BROKEN) as model,
        serving(tmp_path, model) as gateway,
        gateway.tab() as tab,
    ):
        await gateway.house.probe.model()
        await fail(tab, FAILURES)
        again = await tab.chat("hi", request_id="failed-2")
        assert (again["turn"], again["duplicate"], again["status"]) == (3, True, "failed")
        other = await tab.refused(type="chat", message="other", request_id="failed-2")
        assert other["code"] == "request_id_conflict"


async def test_the_probe_lets_one_message_try_and_its_success_closes_the_circuit(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as (health, model, gateway, tab):
        await tab.refused(type="chat", message="hi", request_id="r1")
        await find_well(gateway, health)
        model.fault = f.well
        # The refused message did not use up its id.
        accepted = await tab.chat("hi", request_id="r1")
        assert (accepted["turn"], accepted["duplicate"]) == (FAILURES + 1, False)
        assert (await tab.ends(FAILURES + 1))["finish_reason"] == "stop"
        assert tab.text(FAILURES + 1) == "".join(GOOD)
        model.fault = BROKEN
        await fail(tab, FAILURES - 1, called="again")


async def test_a_trial_that_fails_opens_the_circuit_anew(tmp_path: Path) -> None:
    async with opened(tmp_path) as (health, model, gateway, tab):
        await find_well(gateway, health)
        await tab.chat("hi")
        await tab.ends(FAILURES + 1)
        await tab.refused(type="chat", message="hi")
    assert len(model.calls) == FAILURES + 1


@pytest.mark.parametrize(
    "unusable",
    [
        {"message": "hi", "request_id": "failed-0"},
        {"message": "hi", "replaces": 99},
    ],
    ids=["a repeat", "a message that is refused"],
)
async def test_the_trial_is_not_used_up_by(tmp_path: Path, unusable: dict[str, object]) -> None:
    async with opened(tmp_path) as (health, model, gateway, tab):
        await find_well(gateway, health)
        model.fault = f.well
        await tab.send(type="chat", **unusable)
        await tab.next("accepted", "error")
        await tab.chat("now")
        assert (await tab.ends(FAILURES + 1))["finish_reason"] == "stop"


async def test_an_error_that_the_server_answers_with_is_no_failure_of_the_server(
    tmp_path: Path,
) -> None:
    async with (
        faulty(in_turn(f.error(""), f.status(500), f.end)) as model,
        serving(tmp_path, model) as gateway,
        gateway.tab() as tab,
    ):
        await fail(tab, 2 * FAILURES)
    assert len(model.calls) == 2 * FAILURES


async def test_only_failures_in_a_row_count(tmp_path: Path) -> None:
    bad = [BROKEN] * (FAILURES - 1)
    async with (
        faulty(in_turn(*bad, f.well, *bad, f.well)) as model,
        serving(tmp_path, model) as gateway,
        gateway.tab() as tab,
    ):
        for turn in range(1, 2 * FAILURES + 1):
            await tab.chat("hi")
            await tab.ends(turn)
    assert len(model.calls) == 2 * FAILURES


async def test_turns_taken_up_after_a_restart_are_tried_whatever_the_circuit_says(
    tmp_path: Path,
) -> None:
    async with faulty(f.mute) as model:
        async with serving(tmp_path, model) as gateway:
            sessions = [await gateway.new_session() for _ in range(FAILURES + 2)]
            for session_id in sessions:
                async with gateway.tab(session_id) as tab:
                    await tab.chat("hi")
        seen_before = len(model.calls)
        model.fault = in_turn(*[BROKEN] * (FAILURES + 1), f.well)
        # Nobody may wait here, but those that were accepted earlier do.
        async with serving(tmp_path, model, llm_max_waiting=0) as gateway:
            with anyio.fail_after(WITHIN_S):
                for session_id in sessions:
                    async with gateway.tab(session_id, after="0.0.end") as tab:
                        await tab.ends()
    assert len(model.calls) - seen_before == FAILURES + 2
    assert sorted(reason for reason, _ in gateway.replies()) == ["error"] * (FAILURES + 1) + [
        "stop"
    ]
