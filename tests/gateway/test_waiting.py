import asyncio
import sys
from collections import deque

import pytest

from gateway.waiting import STEP_S, Gate, Mailbox, in_company


def beginning(*waits: object) -> list[asyncio.Task[object]]:
    """Begin to wait, in tasks; each is waiting once the loop has turned."""
    return [asyncio.ensure_future(wait) for wait in waits]  # type: ignore[call-overload]


async def test_an_open_gate_lets_pass_and_a_shut_one_lets_wait() -> None:
    gate = Gate()
    assert gate.is_set()
    await gate.wait()
    gate.clear()
    gate.clear()
    assert not gate.is_set()
    waiting = beginning(gate.wait(), gate.wait())
    await asyncio.sleep(0)
    assert not any(each.done() for each in waiting)
    gate.set()
    gate.set()
    await asyncio.gather(*waiting)


async def test_who_waits_at_a_gate_passes_though_it_is_shut_again_at_once() -> None:
    gate = Gate()
    gate.clear()
    [waiting] = beginning(gate.wait())
    await asyncio.sleep(0)
    gate.set()
    gate.clear()
    await waiting
    assert not gate.is_set()


async def test_who_stops_waiting_at_a_gate_holds_up_nobody() -> None:
    gate = Gate()
    gate.clear()
    one, other = beginning(gate.wait(), gate.wait())
    await asyncio.sleep(0)
    one.cancel()
    await asyncio.wait([one])
    gate.set()
    await other


async def test_items_are_taken_in_their_order_each_once() -> None:
    box: Mailbox[int] = Mailbox()
    assert box.empty()
    for item in (1, 2, 3):
        box.put_nowait(item)
    assert [await box.get(), await box.get()] == [1, 2]
    assert not box.empty()
    assert await box.get() == 3
    assert box.empty()


async def test_who_waits_for_an_item_gets_the_first_of_those_that_come() -> None:
    box: Mailbox[int] = Mailbox()
    [waiting] = beginning(box.get())
    await asyncio.sleep(0)
    box.put_nowait(1)
    box.put_nowait(2)
    assert await waiting == 1
    assert await box.get() == 2


@pytest.mark.parametrize("came", [False, True])
async def test_who_stops_waiting_for_an_item_takes_none(came: bool) -> None:
    box: Mailbox[int] = Mailbox()
    [waiting] = beginning(box.get())
    await asyncio.sleep(0)
    if came:
        box.put_nowait(1)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    if not came:
        box.put_nowait(1)
    assert await box.get() == 1


async def test_delays_that_end_at_about_the_same_time_end_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "time", lambda: 1_000.01)
    lengths = [in_company(loop, seconds) for seconds in (25.0, 25.0 + STEP_S / 2)]
    assert lengths == [pytest.approx(25.0 + STEP_S - 0.01)] * 2
    assert in_company(loop, 25.0 + STEP_S) == pytest.approx(25.0 + 2 * STEP_S - 0.01)


def test_they_weigh_less_than_one_queue_of_waiters() -> None:
    ours = sum(map(sys.getsizeof, (Gate(), Mailbox(), [])))
    assert ours < sys.getsizeof(deque()) / 2
