"""Calls that came to nothing are repeated, within the turn's time, and no others."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import pytest

from tests.faults import faulty as f
from tests.faults.faulty import GOOD, Fault, FaultyModel, faulty, in_turn
from tests.faults.transports import TRANSPORTS, ask_all
from tests.gateway.harness import WITHIN_S, Gateway, in_process, on_sockets, settings_for

SOON = {"llm_first_token_timeout_s": 0.2, "llm_silence_timeout_s": 0.2}


def serving(
    tmp_path: Path, model: FaultyModel, **limits: float
) -> AbstractAsyncContextManager[Gateway]:
    """A gateway in this process."""
    return in_process(settings_for(tmp_path / "chat.db", model.url, **limits))


@pytest.mark.parametrize(
    "fault", [f.cut, f.vanish, f.status(503)], ids=["a reset", "a closed connection", "503"]
)
async def test_a_call_that_was_not_answered_is_repeated_until_the_server_is_back(
    tmp_path: Path, fault: Fault
) -> None:
    async with faulty(in_turn(*[fault] * 3, f.well)) as model:
        settings = settings_for(tmp_path / "chat.db", model.url, llm_max_concurrency=3)
        async with on_sockets(settings) as gateway:
            sessions = {ask: await gateway.new_session() for ask in TRANSPORTS}
            for seen in await ask_all(gateway, sessions, "hi"):
                assert (seen.end["finish_reason"], seen.text) == ("stop", "".join(GOOD))
    assert len(model.calls) == 6
    assert gateway.replies() == [("stop", "".join(GOOD))] * 3


async def test_a_repeated_call_asks_the_same(tmp_path: Path) -> None:
    async with (
        faulty(in_turn(f.cut, f.well)) as model,
        serving(tmp_path, model) as gateway,
        gateway.tab() as tab,
    ):
        await tab.chat("hi")
        assert (await tab.ends())["finish_reason"] == "stop"
        assert tab.kinds("accepted") == ["start", "token", "complete"]
    first, second = model.calls
    assert first.body == second.body


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (f.said_then(f.cut), "upstream_unavailable"),
        (f.said_nothing_then(f.cut), "upstream_unavailable"),
        (f.mute, "upstream_timeout"),
        (f.started, "upstream_timeout"),
        (f.said_then(f.mute), "upstream_stalled"),
        (f.status(500), "upstream_error"),
        (f.error(""), "upstream_error"),
    ],
    ids=["text", "headers", "no headers in time", "no text in time", "a stall", "500", "an error"],
)
async def test_a_call_is_not_repeated_after(tmp_path: Path, fault: Fault, code: str) -> None:
    # The model may be at work on it still, or has said what it has to say.
    async with (
        faulty(in_turn(fault, f.well)) as model,
        serving(tmp_path, model, **SOON) as gateway,
        gateway.tab() as tab,
    ):
        await tab.chat("hi")
        assert (await tab.ends())["code"] == code
    assert len(model.calls) == 1


async def test_a_cancel_between_two_calls_ends_the_turn_at_once(tmp_path: Path) -> None:
    async with (
        faulty(f.cut) as model,
        serving(tmp_path, model, llm_cool_down_s=3_600) as gateway,
        gateway.tab() as tab,
    ):
        await tab.chat("hi")
        with anyio.fail_after(WITHIN_S):
            await model.seen(3)  # the wait behind the third is the longest
        await anyio.wait_all_tasks_blocked()
        await tab.send(type="cancel", turn=1)
        assert (await tab.ends())["finish_reason"] == "cancelled"
        assert len(model.calls) == 3
        # Nothing was left at work, so the model is free.
        assert gateway.house.admission.calls == 0


async def test_the_limit_of_a_turn_ends_its_retries(tmp_path: Path) -> None:
    async with (
        faulty(f.cut) as model,
        serving(tmp_path, model, turn_timeout_s=0.4) as gateway,
        gateway.tab() as tab,
    ):
        await tab.chat("hi")
        assert (await tab.ends())["code"] == "turn_timeout"
        assert 1 <= len(model.calls) <= 3
        model.fault = f.well
        await tab.chat("again")
        assert (await tab.ends(2))["finish_reason"] == "stop"
