"""Admission: how many calls at once, who is next, and what those who wait are told."""

import anyio
import pytest

from llm import queue
from llm.admission import Place, QueueFull
from llm.queue import Queue

WITHIN_S = 5.0


class Standing:
    """What one waiting place was told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int | None]] = []
        self.news = anyio.Event()

    def __call__(self, position: int, eta_ms: int | None) -> None:
        self.told.append((position, eta_ms))
        self.news.set()
        self.news = anyio.Event()


@pytest.fixture(autouse=True)
def _positions_are_told_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "MOVES_EVERY_S", 0.001)


def admission(max_calls: int = 1, max_waiting: int = 10) -> Queue:
    return Queue(max_calls=max_calls, max_waiting=max_waiting)


async def test_as_many_as_may_are_admitted_at_once() -> None:
    door = admission(max_calls=2)
    places = [await door.reserve() for _ in range(4)]
    assert [place.waits for place in places] == [False, False, True, True]
    assert (door.calls, door.waiting) == (2, 2)


async def test_who_is_admitted_at_once_hears_nothing() -> None:
    standing = Standing()
    with anyio.fail_after(WITHIN_S):
        place = await admission().reserve()
        await place.admitted(standing)
    assert standing.told == []


async def test_who_came_first_is_next() -> None:
    door = admission()
    places = [await door.reserve() for _ in range(4)]
    for number, place in enumerate(places):
        assert [other.waits for other in places[number:]] == [False, *[True] * (3 - number)]
        place.release()
    assert (door.calls, door.waiting) == (0, 0)


async def test_a_place_waits_until_it_is_admitted() -> None:
    door = admission()
    first, second = await door.reserve(), await door.reserve()
    order: list[str] = []

    async def wait(place: Place) -> None:
        await place.admitted(Standing())
        order.append("admitted")

    with anyio.fail_after(WITHIN_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, second)
            await anyio.wait_all_tasks_blocked()
            order.append("released")
            first.release()
    assert order == ["released", "admitted"]


async def test_releasing_twice_is_releasing_once() -> None:
    door = admission(max_calls=2)
    first, second = await door.reserve(), await door.reserve()
    waiting = [await door.reserve(), await door.reserve()]
    first.release()
    first.release()
    first.release(cool_down_s=3_600)
    assert [place.waits for place in waiting] == [False, True]
    assert door.calls == 2
    second.release()
    assert [place.waits for place in waiting] == [False, False]


async def test_a_place_can_be_given_up_while_it_waits() -> None:
    door = admission()
    first, second, third = await door.reserve(), await door.reserve(), await door.reserve()
    second.release(cool_down_s=3_600)
    assert (door.calls, door.waiting) == (1, 1)
    first.release()
    assert not third.waits
    assert door.calls == 1


async def test_cancelling_the_wait_leaves_the_place_as_it_is() -> None:
    door = admission()
    first, second = await door.reserve(), await door.reserve()
    with anyio.move_on_after(0):
        await second.admitted(Standing())
    assert door.waiting == 1
    first.release()
    assert not second.waits
    second.release()
    assert door.calls == 0


@pytest.mark.parametrize("max_waiting", [0, 2])
async def test_a_full_queue_refuses_and_keeps_nothing_of_the_refused(max_waiting: int) -> None:
    door = admission(max_waiting=max_waiting)
    for _ in range(1 + max_waiting):
        await door.reserve()
    with pytest.raises(QueueFull) as raised:
        await door.reserve()
    assert raised.value.waiting == max_waiting
    assert (door.calls, door.waiting) == (1, max_waiting)


async def test_what_was_accepted_once_gets_a_place_even_if_the_queue_is_full() -> None:
    door = admission(max_waiting=0)
    await door.reserve()
    place = await door.reserve(even_if_full=True)
    assert place.waits
    assert door.waiting == 1


async def test_a_server_that_cools_down_is_busy_and_then_free() -> None:
    door = admission()
    (await door.reserve()).release(cool_down_s=0.01)
    assert door.calls == 1
    next_one = await door.reserve()
    assert next_one.waits
    with anyio.fail_after(WITHIN_S):
        await next_one.admitted(Standing())
    assert door.calls == 1


async def test_positions_are_told_at_once_and_when_they_move() -> None:
    door = admission()
    first, second, third = await door.reserve(), await door.reserve(), await door.reserve()
    standing = Standing()
    with anyio.fail_after(WITHIN_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(third.admitted, standing)
            await anyio.wait_all_tasks_blocked()
            assert standing.told == [(2, None)]
            moved = standing.news
            first.release()
            await moved.wait()
            assert standing.told[1][0] == 1
            second.release()
    # Being admitted is no position.
    assert [position for position, _ in standing.told] == [2, 1]


async def test_positions_are_told_at_most_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "MOVES_EVERY_S", 0.05)
    door = admission()
    places = [await door.reserve() for _ in range(6)]
    standing = Standing()
    with anyio.fail_after(WITHIN_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(places[5].admitted, standing)
            await anyio.wait_all_tasks_blocked()
            moved = standing.news
            for place in places[:4]:
                place.release()
            assert len(standing.told) == 1
            await moved.wait()
            assert [position for position, _ in standing.told] == [5, 1]
            places[4].release()


async def test_the_last_place_moves_up_when_one_before_it_is_given_up() -> None:
    door = admission()
    first, second, third = await door.reserve(), await door.reserve(), await door.reserve()
    standing = Standing()
    with anyio.fail_after(WITHIN_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(third.admitted, standing)
            await anyio.wait_all_tasks_blocked()
            moved = standing.news
            second.release()
            await moved.wait()
            assert standing.told == [(2, None), (1, None)]
            first.release()


async def test_the_estimate_grows_with_the_position_and_shrinks_with_more_calls() -> None:
    for max_calls in (1, 2):
        door = admission(max_calls=max_calls)
        door._estimate.learn(2.0)
        for _ in range(max_calls):
            await door.reserve()
        waiting = [await door.reserve() for _ in range(3)]
        standings = [door.standing(place) for place in waiting]
        assert standings == [(n, n * 2_000 // max_calls) for n in (1, 2, 3)]


async def test_the_estimate_follows_what_calls_take_without_jumping() -> None:
    door = admission()
    door._estimate.learn(1.0)
    door._estimate.learn(11.0)
    await door.reserve()
    assert door.standing(await door.reserve()) == (1, 3_000)


async def test_a_refusal_says_when_somebody_will_be_served() -> None:
    door = admission(max_waiting=0)
    door._estimate.learn(1.5)
    await door.reserve()
    with pytest.raises(QueueFull) as raised:
        await door.reserve()
    assert raised.value.retry_after_ms == 1_500


async def test_a_session_that_asks_again_stands_behind_those_who_wait() -> None:
    door = admission()
    greedy, patient = await door.reserve(), await door.reserve()
    greedy.release()
    again = await door.reserve()
    assert not patient.waits
    assert again.waits
