"""What every queue in front of a model server promises, be it of one process or of all nodes."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import anyio
import pytest

from gateway.nodes.turnstile import Rules
from llm import queue
from llm.admission import Admission, Place, QueueFull
from llm.queue import Queue
from tests.gateway.nodes.queueing import WITHIN_S, Standing, deployed

LOOK_S = 0.05


@dataclass(frozen=True)
class Door:
    """A queue; once it is settled, all that was done to it has had its effect."""

    admission: Admission
    settle: Callable[[], Awaitable[None]]

    async def reserve(self, count: int) -> list[Place]:
        return [await self.admission.reserve() for _ in range(count)]

    async def waits(self, places: list[Place]) -> list[bool]:
        await self.settle()
        return [place.waits for place in places]

    async def counts(self) -> tuple[int, int]:
        await self.settle()
        return self.admission.calls, self.admission.waiting


Opened = Callable[..., Awaitable[Door]]


@pytest.fixture(params=["one process", "all nodes"])
async def opened(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Opened]:
    """Open the queue that a test is about."""
    monkeypatch.setattr(queue, "MOVES_EVERY_S", LOOK_S)
    async with AsyncExitStack() as stack:
        if request.param == "one process":
            yield one_process
        else:
            url, prefix = map(request.getfixturevalue, ("redis_url", "redis_prefix"))
            yield await stack.enter_async_context(all_nodes(url, prefix))


async def one_process(max_calls: int = 1, max_waiting: int = 10) -> Door:
    return Door(Queue(max_calls=max_calls, max_waiting=max_waiting), nothing)


@asynccontextmanager
async def all_nodes(url: str, prefix: str) -> AsyncIterator[Opened]:
    async with deployed(url, prefix) as here:

        async def one_of_them(max_calls: int = 1, max_waiting: int = 10) -> Door:
            rules = Rules(max_calls=max_calls, max_waiting=max_waiting, look_s=LOOK_S)
            node = await here.node(rules)
            return Door(node.queue, node.settle)

        yield one_of_them


async def nothing() -> None:
    """There is nothing to wait for."""


async def test_as_many_as_may_are_admitted_at_once(opened: Opened) -> None:
    door = await opened(max_calls=2)
    places = await door.reserve(4)
    assert [place.waits for place in places] == [False, False, True, True]
    assert (door.admission.calls, door.admission.waiting) == (2, 2)


async def test_who_is_admitted_at_once_hears_nothing(opened: Opened) -> None:
    door = await opened()
    standing = Standing()
    with anyio.fail_after(WITHIN_S):
        place = await door.admission.reserve()
        await place.admitted(standing)
    assert standing.told == []


async def test_who_came_first_is_next(opened: Opened) -> None:
    door = await opened()
    places = await door.reserve(4)
    for number, place in enumerate(places):
        assert await door.waits(places[number:]) == [False, *[True] * (3 - number)]
        place.release()
    assert await door.counts() == (0, 0)


async def test_a_place_waits_until_it_is_admitted(opened: Opened) -> None:
    door = await opened()
    first, second = await door.reserve(2)
    order: list[str] = []

    async def wait(place: Place) -> None:
        await place.admitted(Standing())
        order.append("admitted")

    with anyio.fail_after(WITHIN_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, second)
            await door.settle()
            await anyio.lowlevel.checkpoint()
            order.append("released")
            first.release()
    assert order == ["released", "admitted"]


async def test_releasing_twice_is_releasing_once(opened: Opened) -> None:
    door = await opened(max_calls=2)
    first, second, *waiting = await door.reserve(4)
    first.release()
    first.release()
    first.release(cool_down_s=3_600)
    assert await door.waits(waiting) == [False, True]
    assert door.admission.calls == 2
    second.release()
    assert await door.waits(waiting) == [False, False]


async def test_a_place_can_be_given_up_while_it_waits(opened: Opened) -> None:
    door = await opened()
    first, second, third = await door.reserve(3)
    second.release(cool_down_s=3_600)
    assert await door.counts() == (1, 1)
    first.release()
    assert await door.waits([third]) == [False]
    assert door.admission.calls == 1


async def test_cancelling_the_wait_leaves_the_place_as_it_is(opened: Opened) -> None:
    door = await opened()
    first, second = await door.reserve(2)
    with anyio.move_on_after(0):
        await second.admitted(Standing())
    assert await door.counts() == (1, 1)
    first.release()
    assert await door.waits([second]) == [False]
    second.release()
    assert await door.counts() == (0, 0)


@pytest.mark.parametrize("max_waiting", [0, 2])
async def test_a_full_queue_refuses_and_keeps_nothing_of_the_refused(
    opened: Opened, max_waiting: int
) -> None:
    door = await opened(max_waiting=max_waiting)
    await door.reserve(1 + max_waiting)
    with pytest.raises(QueueFull) as raised:
        await door.admission.reserve()
    assert raised.value.waiting == max_waiting
    assert raised.value.retry_after_ms is None, "nothing has been learnt yet"
    assert await door.counts() == (1, max_waiting)


async def test_what_was_accepted_once_gets_a_place_even_if_the_queue_is_full(
    opened: Opened,
) -> None:
    door = await opened(max_waiting=0)
    await door.reserve(1)
    place = await door.admission.reserve(even_if_full=True)
    assert await door.waits([place]) == [True]
    assert door.admission.waiting == 1


async def test_a_server_that_cools_down_is_busy_and_then_free(opened: Opened) -> None:
    door = await opened()
    [place] = await door.reserve(1)
    place.release(cool_down_s=0.3)
    assert await door.counts() == (1, 0)
    [next_one] = await door.reserve(1)
    assert next_one.waits
    with anyio.fail_after(WITHIN_S):
        await next_one.admitted(Standing())
    assert await door.counts() == (1, 0)


async def test_positions_are_told_at_once_and_when_they_move(opened: Opened) -> None:
    door = await opened()
    first, second, third = await door.reserve(3)
    standing = Standing()
    with anyio.fail_after(WITHIN_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(third.admitted, standing)
            await anyio.lowlevel.checkpoint()
            assert standing.told == [(2, None)]
            moved = standing.news
            first.release()
            await moved.wait()
            assert standing.positions == [2, 1]
            await door.settle()
            second.release()
    assert standing.positions == [2, 1], "being admitted is no position"


async def test_positions_are_told_at_most_once_in_a_while(opened: Opened) -> None:
    door = await opened()
    places = await door.reserve(8)
    standing = Standing()
    with anyio.fail_after(WITHIN_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(places[7].admitted, standing)
            for place in places[:7]:
                await door.settle()
                place.release()
    gaps = [later - sooner for sooner, later in zip(standing.at, standing.at[1:], strict=False)]
    assert all(gap >= LOOK_S * 0.999 for gap in gaps)
    assert standing.positions == sorted(standing.positions, reverse=True)


async def test_the_last_place_moves_up_when_one_before_it_is_given_up(opened: Opened) -> None:
    door = await opened()
    first, second, third = await door.reserve(3)
    standing = Standing()
    with anyio.fail_after(WITHIN_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(third.admitted, standing)
            await anyio.lowlevel.checkpoint()
            moved = standing.news
            second.release()
            await moved.wait()
            assert standing.told == [(2, None), (1, None)]
            first.release()


@pytest.mark.parametrize("max_calls", [1, 2])
async def test_the_estimate_is_learnt_from_calls_and_grows_with_the_position(
    opened: Opened, max_calls: int
) -> None:
    door = await opened(max_calls=max_calls, max_waiting=2)
    first, *_ = await door.reserve(max_calls)
    first.call()
    # The server is at work for most of it after it was left alone.
    first.release(cool_down_s=0.05)
    [second] = await door.reserve(1)
    with anyio.fail_after(WITHIN_S):
        await second.admitted(Standing())
    standings = [await told(place) for place in await door.reserve(2)]
    assert [position for position, _ in standings] == [1, 2]
    soon, later = [some(eta_ms) for _, eta_ms in standings]
    assert 50 / max_calls <= soon <= 1_000
    assert abs(later - 2 * soon) <= 1
    with pytest.raises(QueueFull) as raised:
        await door.admission.reserve()
    assert raised.value.retry_after_ms == soon


async def told(place: Place) -> tuple[int, int | None]:
    """Ask where a place stands."""
    standing = Standing()
    with anyio.move_on_after(0):
        await place.admitted(standing)
    [only] = standing.told
    return only


def some(number: int | None) -> int:
    assert number is not None
    return number


async def test_a_session_that_asks_again_stands_behind_those_who_wait(opened: Opened) -> None:
    door = await opened()
    greedy, patient = await door.reserve(2)
    greedy.release()
    [again] = await door.reserve(1)
    assert await door.waits([patient, again]) == [False, True]


async def test_whatever_is_done_in_whatever_order_as_many_call_as_may(
    opened: Opened,
) -> None:
    door = await opened(max_calls=3, max_waiting=6)
    held: list[Place] = []
    dice = random.Random(5)
    for _ in range(150):
        if dice.random() < 0.6:
            with suppress(QueueFull):
                held.append(await door.admission.reserve(even_if_full=dice.random() < 0.1))
        if held and dice.random() < 0.5:
            held.pop(dice.randrange(len(held))).release()
        if dice.random() < 0.2:
            calling = sum(not waits for waits in await door.waits(held))
            assert calling == min(3, len(held))
            assert [place.waits for place in held] == sorted(place.waits for place in held)
            assert await door.counts() == (calling, len(held) - calling)
