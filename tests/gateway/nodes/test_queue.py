"""The queue of all nodes on a real Redis: one limit, one order, and what goes wrong."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator

import anyio
import pytest

from gateway.nodes import queue
from gateway.nodes.link import BrokerAway
from gateway.nodes.queue import SharedPlace
from gateway.nodes.turnstile import Rules
from llm.admission import QueueFull
from tests.gateway.nodes.queueing import (
    RULES,
    WITHIN_S,
    Deployment,
    Node,
    Standing,
    admitted,
    deployed,
    until,
)
from tests.servers.redis import RedisServer

PATIENT = Rules(max_calls=1, max_waiting=100, look_s=0.1)
"""Leases that outlive any test."""


@pytest.fixture
async def here(redis_url: str, redis_prefix: str) -> AsyncIterator[Deployment]:
    with anyio.fail_after(60):
        async with deployed(redis_url, redis_prefix) as here:
            yield here


@pytest.fixture
async def alone(own_redis: RedisServer) -> AsyncIterator[Deployment]:
    """A deployment whose Redis nobody else uses."""
    with anyio.fail_after(60):
        async with deployed(own_redis.url, "test") as here:
            yield here


def names(*places: SharedPlace) -> list[str]:
    return [place.name for place in places]


def now() -> float:
    return asyncio.get_running_loop().time()


async def back(node: Node) -> None:
    """Wait until a node has found Redis again, and has told it everything."""
    await until(lambda: node.link.up)
    await node.settle()


# One queue


async def test_calls_of_all_nodes_count_against_one_limit(here: Deployment) -> None:
    nodes = [await here.node(PATIENT, max_calls=2) for _ in range(3)]
    places = [await node.queue.reserve() for node in nodes]
    assert [place.waits for place in places] == [False, False, True]
    for node in nodes:
        await node.settle()
        assert (node.queue.calls, node.queue.waiting) == (2, 1)


async def test_who_came_first_is_next_whichever_node_it_came_to(here: Deployment) -> None:
    nodes = [await here.node(PATIENT) for _ in range(3)]
    places = [await nodes[n % 3].queue.reserve() for n in (0, 2, 1, 1, 0, 2)]
    for number, place in enumerate(places):
        await admitted(place)
        assert [other.waits for other in places[number + 1 :]] == [True] * (5 - number)
        assert here.waiting == names(*places[number + 1 :])
        place.release()
    await until(lambda: here.calls == [])


async def test_a_full_queue_counts_everybody(here: Deployment) -> None:
    one, two = [await here.node(PATIENT, max_waiting=2) for _ in range(2)]
    for node in (one, two, one):
        await node.queue.reserve()
    with pytest.raises(QueueFull) as raised:
        await two.queue.reserve()
    assert raised.value.waiting == 2
    assert (await two.queue.reserve(even_if_full=True)).position == 3


async def test_positions_count_everybody(here: Deployment) -> None:
    one, two = [await here.node(PATIENT) for _ in range(2)]
    first, second = await one.queue.reserve(), await one.queue.reserve()
    third = await two.queue.reserve()
    standing = Standing()
    with anyio.fail_after(WITHIN_S):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(third.admitted(standing))
            await asyncio.sleep(0)
            assert standing.positions == [2]
            moved = standing.news
            second.release()
            await moved.wait()
            first.release()
    assert standing.positions == [2, 1]


async def test_what_one_node_learns_all_know(here: Deployment) -> None:
    one, two = [await here.node(PATIENT) for _ in range(2)]
    first = await one.queue.reserve()
    first.call()
    first.release(cool_down_s=0.1)
    await one.settle()
    await two.settle()
    assert two.queue.estimate.eta_ms(1) == one.queue.estimate.eta_ms(1)
    assert (two.queue.estimate.eta_ms(1) or 0) >= 100


async def test_who_gets_a_place_elsewhere_is_told_at_once(here: Deployment) -> None:
    one, two = [await here.node(PATIENT, look_s=30.0, renew_s=30.0) for _ in range(2)]
    first, second = await one.queue.reserve(), await two.queue.reserve()
    first.release()
    await admitted(second)


async def test_a_lost_announcement_costs_one_look(here: Deployment) -> None:
    one, two = [await here.node(PATIENT, look_s=0.3) for _ in range(2)]
    two.lose_announcements()
    first, second = await one.queue.reserve(), await two.queue.reserve()
    await two.settle()
    began = now()
    first.release()
    await admitted(second)
    assert now() - began < 1.0


async def test_a_node_where_nobody_waited_looks_as_soon_as_somebody_does(here: Deployment) -> None:
    one, two = [await here.node(PATIENT, look_s=0.1, renew_s=30.0) for _ in range(2)]
    two.lose_announcements()
    first, second = await one.queue.reserve(), await two.queue.reserve()
    first.release()
    await admitted(second)


async def test_clocks_that_are_set_back_put_nobody_in_front(here: Deployment) -> None:
    node = await here.node(PATIENT)
    await node.queue.reserve()
    second = await node.queue.reserve()
    here.client.zadd(here.key("waiting"), {second.name: 9e15})
    third = await node.queue.reserve()
    assert here.waiting == names(second, third)


async def test_more_places_than_are_told_in_one_script(
    here: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "MAX_AT_ONCE", 7)
    node = await here.node(PATIENT, look_s=30.0, renew_s=30.0)
    places = [await node.queue.reserve() for _ in range(40)]
    standing = Standing()
    with anyio.move_on_after(0.0):
        await places[-1].admitted(standing)
    for place in places[1:-1]:
        place.release()
    await until(lambda: not node.queue._released)
    await node.settle()
    assert (here.calls, here.waiting) == (names(places[0]), names(places[-1]))
    await node.settle()
    assert places[-1].position == 1


async def test_what_nobody_looks_after_does_not_stay_for_ever(here: Deployment) -> None:
    node = await here.node(PATIENT)
    for _ in range(2):
        await node.queue.reserve()
    await node.settle()
    for name in ("calls", "waiting", "leases", "state"):
        left_s = here.client.ttl(here.key(name))
        assert isinstance(left_s, int)
        assert 3_600 < left_s <= 86_400, name


# Giving up


async def test_a_reservation_that_is_cancelled_takes_no_place(here: Deployment) -> None:
    node = await here.node(PATIENT)
    dice = random.Random(3)

    async def reserve() -> None:
        (await node.queue.reserve()).release()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(100):
            task = tasks.create_task(reserve())
            asyncio.get_running_loop().call_later(dice.random() * 0.003, task.cancel)
    await node.settle()
    assert (here.calls, here.waiting) == ([], [])
    assert node.queue._places == {}


async def test_closing_gives_back_what_is_left(here: Deployment) -> None:
    one, two = [await here.node(PATIENT, max_calls=2) for _ in range(2)]
    for _ in range(5):
        await one.queue.reserve()
    last = await two.queue.reserve()
    await one.close()
    await admitted(last)
    assert (here.calls, here.waiting) == (names(last), [])
    with pytest.raises(BrokerAway):
        await one.queue.reserve()


async def test_what_is_reserved_while_the_queue_is_closed_is_given_back(here: Deployment) -> None:
    node = await here.node(PATIENT)
    asked = [asyncio.create_task(node.queue.reserve()) for _ in range(3)]
    await asyncio.sleep(0)
    await node.close()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(answer) for answer in answers} == {BrokerAway}
    assert (here.calls, here.waiting) == ([], [])


async def test_a_cool_down_outlives_its_node(here: Deployment) -> None:
    one, two = [await here.node(look_s=0.8, quiet_s=1.0) for _ in range(2)]
    first, second = await one.queue.reserve(), await two.queue.reserve()
    began = now()
    first.release(cool_down_s=2.0)
    await one.settle()
    await one.crash()
    await admitted(second)
    # Longer than a lease; and then at once, although nobody does anything.
    assert 2.0 <= now() - began < 2.25


# Nodes that die, or stand still


async def test_the_places_of_a_node_that_died_come_back_within_a_lease(here: Deployment) -> None:
    one, two = [await here.node(max_calls=2) for _ in range(2)]
    for _ in range(2):
        await one.queue.reserve()
    left = await one.queue.reserve()
    waiting = [await two.queue.reserve() for _ in range(2)]
    began = now()
    await one.crash()
    await admitted(*waiting)
    assert now() - began < RULES.lease_s + RULES.look_s * 2
    assert left.name not in here.waiting + here.calls


async def test_the_dead_who_are_next_block_nobody_for_longer_than_a_lease(here: Deployment) -> None:
    one, two = [await here.node() for _ in range(2)]
    first = await two.queue.reserve()
    dead = await one.queue.reserve()
    last = await two.queue.reserve()
    began = now()
    await one.crash()
    await until(lambda: now() - began > RULES.lease_s * 0.6)
    first.release()
    await until(lambda: here.calls == names(dead))
    await admitted(last)
    assert now() - began < RULES.lease_s + RULES.look_s * 2


async def test_who_wakes_after_its_lease_calls_on_and_waits_where_it_waited(
    here: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = [await here.node() for _ in range(2)]
    running, waiting = await one.queue.reserve(), await one.queue.reserve()
    thaw = freeze(one, monkeypatch)
    late = await two.queue.reserve()
    await admitted(late)
    later = await two.queue.reserve()
    assert (here.calls, here.waiting) == (names(late), names(later))
    thaw()
    await until(lambda: here.waiting == names(waiting, later))
    assert set(here.calls) == {running.name, late.name}
    late.release()
    await two.settle()
    await one.settle()
    assert waiting.waits, "the limit holds again"
    running.release()
    await admitted(waiting)


async def test_who_stood_still_does_not_believe_what_it_heard_before(
    here: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = [await here.node() for _ in range(2)]
    first, second = await two.queue.reserve(), await one.queue.reserve()
    thaw = freeze(one, monkeypatch)
    first.release()
    await until(lambda: here.calls == names(second))
    third = await two.queue.reserve()
    await admitted(third)
    # Its own admission is the first thing it hears when it wakes.
    one.queue._hear(second.name)
    assert second.waits
    thaw()
    await one.settle()
    assert second.waits
    assert (here.calls, here.waiting) == (names(third), names(second))
    third.release()
    await admitted(second)


async def test_who_stood_still_does_not_believe_what_it_was_answered_before(
    here: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = [await here.node() for _ in range(2)]
    first, second = await two.queue.reserve(), await one.queue.reserve()
    one.lose_announcements()
    first.release()
    await until(lambda: here.calls == names(second))
    asking, thawed = one.link.run_all, asyncio.Event()

    async def answer_later(calls: list[object]) -> list[object]:
        answers = await asking(calls)  # type: ignore[arg-type]
        await thawed.wait()
        return answers

    monkeypatch.setattr(one.link, "run_all", answer_later)
    third = await two.queue.reserve()
    if second.waits:  # else it has looked in time
        await admitted(third)
        thawed.set()
        await one.settle()
        assert second.waits
        third.release()
    thawed.set()
    await admitted(second)


def freeze(node: Node, monkeypatch: pytest.MonkeyPatch) -> "Thaw":
    """Let a node neither ask nor hear anything."""
    asking, thawed = node.link.run_all, asyncio.Event()

    async def ask_later(calls: list[object]) -> list[object]:
        await thawed.wait()
        return await asking(calls)  # type: ignore[arg-type]

    monkeypatch.setattr(node.link, "run_all", ask_later)
    node.link.unsubscribe(node.channel)
    return Thaw(node, thawed)


class Thaw:
    def __init__(self, node: Node, thawed: asyncio.Event) -> None:
        self._node = node
        self._thawed = thawed

    def __call__(self) -> None:
        self._node.link.subscribe(self._node.channel, self._node.queue._hear)
        self._thawed.set()


# Redis that goes, forgets, or stands still


async def test_while_redis_is_away_nobody_is_admitted_and_who_calls_goes_on(
    alone: Deployment, own_redis: RedisServer
) -> None:
    node = await alone.node()
    first, second = await node.queue.reserve(), await node.queue.reserve()
    own_redis.kill()
    await until(lambda: not node.link.up)
    with pytest.raises(BrokerAway):
        await node.queue.reserve()
    assert (node.queue.calls, node.queue.waiting) == (1, 1)
    first.release()
    assert second.waits
    own_redis.start()
    await admitted(second)
    assert alone.calls == names(second)


async def test_what_is_unanswered_when_redis_goes_is_given_back_when_it_returns(
    alone: Deployment, own_redis: RedisServer
) -> None:
    one, two = [await alone.node(PATIENT) for _ in range(2)]
    await one.settle()
    own_redis.pause()
    with pytest.raises(BrokerAway):
        await one.queue.reserve()
    own_redis.resume()
    await back(two)
    await back(one)
    await admitted(await two.queue.reserve())
    assert len(alone.calls) == 1


async def test_redis_that_forgot_everything_is_told_everything(
    alone: Deployment, own_redis: RedisServer
) -> None:
    nodes = [await alone.node(max_calls=2, max_waiting=100) for _ in range(3)]
    places = [await nodes[n % 3].queue.reserve() for n in range(11)]
    places[0].release(cool_down_s=30.0)
    await nodes[0].settle()
    assert alone.waiting == names(*places[2:])
    own_redis.restart()
    for node in nodes:
        await back(node)
    new = await nodes[0].queue.reserve()
    assert new.waits
    await until(lambda: alone.waiting == names(*places[2:], new))
    assert alone.calls == names(places[1], places[0]), "what calls, and what cools down"
    await admitted_one_by_one([places[1], *places[2:], new])


async def admitted_one_by_one(places: list[SharedPlace]) -> None:
    for number, place in enumerate(places):
        await admitted(place)
        assert all(other.waits for other in places[number + 1 :])
        place.release()


async def test_the_places_are_told_as_soon_as_redis_is_back(
    alone: Deployment, own_redis: RedisServer
) -> None:
    node = await alone.node(PATIENT, look_s=30.0, renew_s=30.0)
    places = [await node.queue.reserve() for _ in range(3)]
    own_redis.restart()
    await until(lambda: node.link.up)
    await until(lambda: alone.calls + alone.waiting == names(*places))


async def test_who_notices_that_all_was_forgotten_tells_all_at_once(here: Deployment) -> None:
    """The link stood all the time: somebody has emptied Redis by hand."""
    node = await here.node(PATIENT, look_s=30.0, renew_s=30.0)
    places = [await node.queue.reserve() for _ in range(3)]
    here.client.delete(*[here.key(name) for name in ("calls", "waiting", "leases", "state")])
    new = await node.queue.reserve()
    assert new.waits
    await until(lambda: here.calls + here.waiting == names(*places, new))


async def test_who_asks_first_after_redis_forgot_is_not_served_before_the_others(
    alone: Deployment, own_redis: RedisServer
) -> None:
    """Even if those who call are the last to find out that Redis is back."""
    one, two = [await alone.node() for _ in range(2)]
    running = await two.queue.reserve()
    own_redis.kill()
    await until(lambda: not one.link.up and not two.link.up)
    held, two.link.run_all = two.link.run_all, away  # type: ignore[method-assign,assignment]
    own_redis.start()
    await until(lambda: one.link.up)
    early = await one.queue.reserve()
    assert early.waits
    assert alone.calls == []
    two.link.run_all = held  # type: ignore[method-assign]
    await back(two)
    assert alone.calls == names(running)
    await one.settle()
    assert early.waits
    running.release()
    await admitted(early)


async def away(_: object) -> list[object]:
    raise BrokerAway


async def test_where_nobody_holds_anything_a_loss_of_memory_costs_little(
    alone: Deployment, own_redis: RedisServer
) -> None:
    one, two = [await alone.node() for _ in range(2)]
    own_redis.restart()
    for node in (one, two):
        await back(node)
    began = now()
    await admitted(await one.queue.reserve())
    assert now() - began < RULES.quiet_s + 0.3


async def test_nobody_loses_a_place_because_redis_stood_still(
    alone: Deployment, own_redis: RedisServer
) -> None:
    one, two = [await alone.node() for _ in range(2)]
    running, waiting = await one.queue.reserve(), await two.queue.reserve()
    second = await one.queue.reserve()
    own_redis.pause()
    stalled = now()
    await until(lambda: now() - stalled > RULES.lease_s * 1.5)
    own_redis.resume()
    for node in (two, one):
        await back(node)
    assert (alone.calls, alone.waiting) == (names(running), names(waiting, second))
    assert waiting.waits
    running.release()
    await admitted(waiting)


async def test_what_is_released_while_redis_is_away_is_bounded(
    alone: Deployment, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "MAX_RELEASED", 5)
    node = await alone.node(PATIENT, max_calls=20)
    places = [await node.queue.reserve() for _ in range(20)]
    own_redis.pause()
    await until(lambda: not node.link.up)
    for place in places:
        place.release()
    assert len(node.queue._released) == 5
    own_redis.resume()
    await back(node)
    assert len(alone.calls) == 15, "these lapse"


async def test_a_cool_down_goes_on_while_redis_is_away(
    alone: Deployment, own_redis: RedisServer
) -> None:
    node = await alone.node()
    first, second = await node.queue.reserve(), await node.queue.reserve()
    own_redis.pause()
    await until(lambda: not node.link.up)
    first.release(cool_down_s=1.0)
    released = now()
    own_redis.resume()
    await admitted(second)
    assert 1.0 <= now() - released < 1.5


async def test_scripts_that_fail_are_told_of_once_and_tried_again(
    here: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    node = await here.node()
    place = await node.queue.reserve()
    here.client.rename(here.key("calls"), here.key("aside"))
    here.client.set(here.key("calls"), "nonsense")
    with pytest.raises(BrokerAway):
        await node.queue.reserve()
    place.release()
    await until(lambda: bool(caplog.records))
    here.client.rename(here.key("aside"), here.key("calls"))
    await node.settle()
    assert here.calls == []
    assert [record.getMessage()[:31] for record in caplog.records] == [
        "Redis does not keep the queue: "
    ]


async def test_whatever_breaks_the_places_are_renewed(
    here: Deployment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    node = await here.node()
    place = await node.queue.reserve()
    with monkeypatch.context() as broken:
        broken.setattr(queue, "read", len)
        await until(lambda: "could not be kept" in caplog.text)
    began = now()
    await until(lambda: now() - began > RULES.lease_s)
    assert here.calls == names(place)
