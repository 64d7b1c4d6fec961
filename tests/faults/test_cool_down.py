"""A call that was given up keeps its place for a while: midm goes on generating for nobody."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import pytest

from tests.faults import faulty as f
from tests.faults.faulty import SAID, Fault, FaultyModel, faulty
from tests.gateway.harness import WITHIN_S, Gateway, Tab, in_process, settings_for

HALF = "".join(SAID)
CLOSED_WITHIN_S = 0.1
LONG_S = 3_600.0
FIRST = {"llm_first_token_timeout_s": 0.2}
SILENCE = {"llm_silence_timeout_s": 0.2}
TURN = {"turn_timeout_s": 0.2}

Leave = Callable[[Gateway, Tab], Awaitable[None]]


def serving(
    tmp_path: Path, model: FaultyModel, **more: float
) -> AbstractAsyncContextManager[Gateway]:
    """A gateway in this process whose model needs long to cool down."""
    return in_process(
        settings_for(tmp_path / "chat.db", model.url, **{"llm_cool_down_s": LONG_S, **more})
    )


async def cancel(gateway: Gateway, tab: Tab) -> None:
    """Cancel the open turn, and wait for its end."""
    await tab.send(type="cancel", turn=1)
    assert (await tab.ends())["finish_reason"] == "cancelled"


async def cancel_in_the_middle(gateway: Gateway, tab: Tab) -> None:
    """Cancel the open turn when there is text."""
    await tab.text_until(HALF)
    await cancel(gateway, tab)


async def delete(gateway: Gateway, tab: Tab) -> None:
    """Delete the session, and wait until the socket is closed."""
    await tab.text_until(HALF)
    await gateway.http.delete(f"/api/sessions/{tab.session_id}")
    assert await tab.closed() == 4504


async def fails(gateway: Gateway, tab: Tab) -> None:
    """Wait until the turn fails by itself."""
    assert (await tab.ends())["type"] == "error"


async def succeeds(gateway: Gateway, tab: Tab) -> None:
    """Wait until the reply is complete."""
    assert (await tab.ends())["finish_reason"] == "stop"


async def served(gateway: Gateway, model: FaultyModel, tab: Tab) -> None:
    """Ask, and wait until the model server has the call."""
    await tab.chat("hi")
    with anyio.fail_after(WITHIN_S):
        while not model.calls:
            await model.news.wait()


ABANDONED: dict[str, tuple[Fault, Leave, dict[str, float]]] = {
    "cancelled before the first token": (f.mute, cancel, {}),
    "cancelled in the middle": (f.said_then(f.mute), cancel_in_the_middle, {}),
    "no first token in time": (f.mute, fails, FIRST),
    "stalled": (f.said_then(f.mute), fails, SILENCE),
    "the turn took too long": (f.said_then(f.mute), fails, TURN),
    "the reply was too long": (f.talk_too_much, fails, {}),
    "an event was too long": (f.oversize_event, fails, {}),
    "the session was deleted": (f.said_then(f.mute), delete, {}),
}
OVER: dict[str, tuple[Fault, Leave, dict[str, float]]] = {
    "complete": (f.well, succeeds, {}),
    "an error": (f.error("out of memory"), fails, {}),
    "an error in the middle": (f.said_then(f.error("")), fails, {}),
    "an end without complete": (f.said_then(f.end), fails, {}),
    "refused": (f.status(422), fails, {}),
    "a broken connection": (f.said_then(f.cut), fails, {}),
}


@pytest.mark.parametrize("how", ABANDONED)
async def test_a_call_keeps_its_place_after_it_was(tmp_path: Path, how: str) -> None:
    fault, leave, limits = ABANDONED[how]
    async with faulty(fault) as model, serving(tmp_path, model, **limits) as gateway:
        async with gateway.tab() as tab:
            await served(gateway, model, tab)
            await leave(gateway, tab)
        with anyio.fail_after(WITHIN_S):
            await model.seen(1)  # the connection is closed, however long it cools down
        assert gateway.house.admission.calls == 1
        async with gateway.tab() as other:
            await other.chat("next")
            assert (await other.next("queued"))["position"] == 1


@pytest.mark.parametrize("how", OVER)
async def test_the_next_call_need_not_wait_after(tmp_path: Path, how: str) -> None:
    fault, leave, limits = OVER[how]
    async with faulty(fault) as model, serving(tmp_path, model, **limits) as gateway:
        async with gateway.tab() as tab:
            await tab.chat("hi")
            await leave(gateway, tab)
        assert gateway.house.admission.calls == 0
        model.fault = f.well
        async with gateway.tab() as other:
            await other.chat("next")
            assert (await other.ends())["finish_reason"] == "stop"
            assert "queued" not in other.kinds()


@pytest.mark.parametrize("fault", [f.mute, f.said_then(f.mute)], ids=["mute", "in the middle"])
async def test_a_cancel_closes_the_connection_to_the_model_at_once(
    tmp_path: Path, fault: Fault
) -> None:
    async with (
        faulty(fault) as model,
        serving(tmp_path, model) as gateway,
        gateway.tab() as tab,
    ):
        await served(gateway, model, tab)
        if fault is not f.mute:
            await tab.text_until(HALF)
        await tab.send(type="cancel", turn=1)
        with anyio.fail_after(CLOSED_WITHIN_S):
            await model.seen(1)
        await tab.ends()


async def test_after_cooling_down_whoever_waits_is_served(tmp_path: Path) -> None:
    async with (
        faulty(f.mute) as model,
        serving(tmp_path, model, llm_cool_down_s=0.1) as gateway,
        gateway.tab() as tab,
        gateway.tab() as other,
    ):
        await served(gateway, model, tab)
        await cancel(gateway, tab)
        model.fault = f.well
        await other.chat("next")
        assert (await other.ends())["finish_reason"] == "stop"
        assert "queued" in other.kinds()
