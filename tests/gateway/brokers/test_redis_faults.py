"""The broker of many nodes when announcements get lost, and Redis is killed, frozen or emptied."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from gateway.brokers.redis import BrokerTimes
from gateway.nodes.hearing import Heard, Stands, nothing
from gateway.nodes.link import BrokerAway, Call, Link
from protocol.errors import ErrorCode
from tests.gateway.brokers.nodes import SESSION, TIMES, Node, Nodes, some_nodes, until
from tests.servers.redis import RedisServer

SLOW = replace(TIMES, compare_s=60.0, refresh_s=60.0)
"""Nothing is found out by asking now and then."""


@pytest.fixture
async def own(own_redis: RedisServer) -> AsyncIterator[Nodes]:
    """Nodes on a server that nobody else needs."""
    async with some_nodes(own_redis.url, "own") as nodes:
        yield nodes


def lose(link: Link, monkeypatch: pytest.MonkeyPatch, lost: Callable[[str], object]) -> None:
    """Let announcements get lost on their way to a node, from the next subscription on."""
    subscribe = link.subscribe

    def subscribe_badly(channel: str, heard: Heard, stands: Stands = nothing) -> None:
        subscribe(channel, lambda message: None if lost(message) else heard(message), stands)

    monkeypatch.setattr(link, "subscribe", subscribe_badly)


async def listening(*nodes: Node, session_id: str = SESSION) -> None:
    """Wait until nodes hear what is published of a session."""
    for node in nodes:
        await until(lambda node=node: node.broker._listens(session_id))  # type: ignore[misc]


@contextmanager
def cut_off(node: Node) -> Iterator[None]:
    """Let a node that has lost its link not find the server again."""
    address = node.link._pool.connection_kwargs
    port, address["port"] = address["port"], 1
    try:
        yield
    finally:
        address["port"] = port


async def head_is(head: str, node: Node) -> None:
    """Wait until Redis knows this as the session's newest cursor."""
    async with asyncio.timeout(10):
        while await node.link.get_all([node.broker._layout.head(SESSION)]) != [head]:
            pass


async def both_up(*nodes: Node) -> None:
    await until(lambda: all(node.link.up for node in nodes))


# Announcements get lost


@pytest.mark.parametrize("seed", range(5))
async def test_lost_announcements_cost_time_and_nothing_else(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    dice = random.Random(seed)
    here, there = await nodes.open(), await nodes.open()
    lost: list[str] = []

    def is_lost(message: str) -> bool:
        if dice.random() < 0.3:
            lost.append(message)
            return True
        return False

    lose(there.link, monkeypatch, is_lost)
    async with there.tab().open() as tab:
        await listening(there)
        for turn in range(1, 6):
            run = here.begin(turn)
            for n in range(dice.randrange(40)):
                run.say(f"{n} ")
                if dice.random() < 0.7:
                    await asyncio.sleep(dice.random() * 0.006)
            if dice.random() < 0.7:
                await tab.shows(run.text, turn=turn, within_s=5.0)
            run.end()
            await tab.until(lambda tab, turn=turn: turn in tab.ended, within_s=5.0)  # type: ignore[misc]
            assert tab.texts[turn] == run.text
    assert len(lost) > 10


async def test_a_beginning_that_is_lost_is_read_when_the_text_is_heard(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = await nodes.open(SLOW), await nodes.open(SLOW)
    lose(there.link, monkeypatch, lambda message: " begin " in message)
    async with there.tab().open() as tab:
        await listening(there)
        run = here.begin()
        run.say("one ")
        await tab.shows("one ")
        run.say("two")
        await tab.shows("one two")


async def test_text_that_is_lost_is_read_when_more_is_heard(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = await nodes.open(SLOW), await nodes.open(SLOW)
    lose(there.link, monkeypatch, lambda message: '"two "' in message)
    async with there.tab().open() as tab:
        await listening(there)
        run = here.begin()
        run.say("one ")
        await tab.shows("one ")
        run.say("two ")
        await until(lambda: not run.publisher._mirror.due)
        assert tab.text == "one "
        run.say("three")
        await tab.shows("one two three")


async def test_an_end_before_which_text_was_lost_sends_readers_to_storage(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = await nodes.open(SLOW), await nodes.open(SLOW)
    lose(there.link, monkeypatch, lambda message: '"two"' in message)
    async with there.tab().open() as tab:
        await listening(there)
        run = here.begin()
        run.say("one ")
        await tab.shows("one ")
        asked = tab.stored.asked
        run.say("two")
        run.end()
        await tab.sees_end()
        assert tab.text == "one two"
        assert tab.stored.asked == asked + 1
        assert there.broker._views[SESSION].channel.newest == 1


@pytest.mark.parametrize("kind", ["begin", "end", "drop"])
async def test_comparing_finds_what_no_further_announcement_tells(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    here, there = await nodes.open(SLOW), await nodes.open(replace(SLOW, compare_s=0.2))
    lose(there.link, monkeypatch, lambda message: f" {kind} " in message)
    async with there.tab().open() as tab:
        await listening(there)
        run = here.begin()
        await tab.until(lambda tab: tab.starts, within_s=5.0)
        run.say("text")
        await tab.shows("text")
        if kind == "drop":
            here.broker.drop(SESSION)
            await tab.until(lambda tab: tab.refusal, within_s=5.0)
            assert tab.refusal is not None
            assert tab.refusal.code == ErrorCode.SESSION_NOT_FOUND
        else:
            run.end()
            await tab.until(lambda tab: tab.ended, within_s=5.0)


async def test_whole_turns_of_which_nothing_is_heard_are_found_in_storage(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = await nodes.open(SLOW), await nodes.open(replace(SLOW, compare_s=0.2))
    lose(there.link, monkeypatch, lambda message: True)
    async with there.tab().open() as tab:
        await listening(there)
        for turn in (1, 2, 3):
            run = here.begin(turn)
            run.say(f"turn {turn}")
            run.end()
        await tab.until(lambda tab: tab.ended == [1, 2, 3], within_s=5.0)
        assert tab.texts == {1: "turn 1", 2: "turn 2", 3: "turn 3"}


async def test_announcements_that_overlap_or_repeat_count_once(nodes: Nodes) -> None:
    here, there = await nodes.open(SLOW), await nodes.open(SLOW)
    heard: list[str] = []
    async with there.tab().open() as tab:
        await listening(there)
        hear = there.broker._hear

        def hear_again(message: str) -> None:
            heard.append(message)
            for old in heard:
                hear(SESSION, old)

        there.link.unsubscribe(there.broker._layout.news(SESSION))
        there.link.subscribe(there.broker._layout.news(SESSION), hear_again)
        await until(lambda: there.link._ears._changed == set())
        await listening(there)
        run = here.begin()
        for n in range(30):
            run.say(f"{n} ")
            await asyncio.sleep(0.002)
        await tab.shows(run.text)
        run.end()
        await tab.sees_end()
        assert sum(" begin " in message for message in heard) == 1
        assert len(heard) > 10


# Redis is killed, frozen, emptied


async def test_nobody_misses_anything_when_redis_restarts_empty_in_the_middle_of_a_turn(
    own: Nodes, own_redis: RedisServer
) -> None:
    here, there = await own.open(), await own.open()
    async with here.tab().open() as near, there.tab().open() as far:
        await listening(here, there)
        run = here.begin()
        run.say("before ")
        await far.shows("before ")
        assert is_ready(here)
        own_redis.kill()
        await until(lambda: not here.link.up and not there.link.up)
        assert not is_ready(here)
        for n in range(50):
            run.say(f"{n} ")
            assert run.live.length == len(run.text)
        await near.shows(run.text)
        assert far.text == "before "
        assert waits_for_redis(here) == []
        own_redis.start()
        await far.shows(run.text)
        assert is_ready(here)
        run.say("after")
        await far.shows(run.text)
        run.end()
        await near.sees_end()
        await far.sees_end()
    await until(lambda: here.is_empty() and there.is_empty())


def is_ready(node: Node) -> bool:
    """Ask anew; mypy takes what was asserted once for a lasting truth."""
    return node.broker.ready


def waits_for_redis(node: Node) -> list[object]:
    """What of the text is kept to be sent, besides the turn itself."""
    asking = node.link._asking
    tails = [frame for mirror in node.broker._sending._mirrors for frame in mirror._tail]
    return [*tails, *(asking._outbox if asking else []), *(asking._asked if asking else [])]


async def test_turns_that_begin_and_end_while_redis_is_away_are_seen_when_it_is_back(
    own: Nodes, own_redis: RedisServer
) -> None:
    here, there = await own.open(SLOW), await own.open(SLOW)
    async with here.tab().open() as near, there.tab().open() as far:
        first = here.begin(1)
        first.say("one ")
        await far.shows("one ")
        own_redis.kill()
        await until(lambda: not here.link.up and not there.link.up)
        first.say("two")
        first.end()
        second = here.begin(2)
        second.say("of the second")
        await near.shows("of the second", turn=2)
        assert waits_for_redis(here) == []
        own_redis.start()
        await far.shows("one two", turn=1)
        await far.shows("of the second", turn=2)
        second.end()
        await far.sees_end(2)


async def test_the_end_is_told_though_redis_was_away_when_it_came(
    own: Nodes, own_redis: RedisServer
) -> None:
    """Also where the other node is back before, and its readers have asked storage in vain."""
    here, there = await own.open(SLOW), await own.open(SLOW)
    async with there.tab().open() as far:
        run = here.begin()
        run.say("one ")
        await far.shows("one ")
        own_redis.kill()
        await until(lambda: not here.link.up and not there.link.up)
        with cut_off(here):
            own_redis.start()
            await until(lambda: there.broker._views[SESSION].channel.doubts > 0)
            run.end()
        await far.sees_end()


async def test_a_redis_that_freezes_and_goes_on_costs_only_time(
    own: Nodes, own_redis: RedisServer
) -> None:
    here, there = await own.open(), await own.open()
    async with here.tab().open() as near, there.tab().open() as far:
        await listening(here, there)
        run = here.begin()
        run.say("before ")
        await far.shows("before ")
        own_redis.pause()
        for n in range(50):
            run.say(f"{n} ")
        await near.shows(run.text)
        await until(lambda: not here.link.up and not there.link.up)
        run.say("frozen ")
        await near.shows(run.text)
        own_redis.resume()
        await far.shows(run.text)
        run.say("after")
        await far.shows(run.text)
        run.end()
        await near.sees_end()
        await far.sees_end()


async def test_a_redis_that_is_emptied_without_a_restart_is_filled_again(nodes: Nodes) -> None:
    times = replace(SLOW, compare_s=0.2)
    here, there, late = await nodes.open(times), await nodes.open(times), await nodes.open(times)
    async with there.tab().open() as far:
        run = here.begin()
        run.say("one ")
        await far.shows("one ")
        layout = here.broker._layout
        await here.link._connected().ask(("DEL", layout.head(SESSION), layout.turn(SESSION)))
        # Though nothing more is said.
        async with late.tab().open() as tab:
            await tab.shows("one ")
        # Only the stream is gone: it is not gone on with as if nothing had been in it.
        await here.link._connected().ask(("DEL", layout.turn(SESSION)))
        run.say("two")
        await far.shows("one two")
        async with late.tab().open() as tab:
            await tab.shows("one two")


async def test_what_redis_lost_is_sent_again_at_once(nodes: Nodes) -> None:
    here, there = await nodes.open(replace(SLOW, lazy_s=60.0)), await nodes.open(SLOW)
    async with there.tab().open() as far:
        await listening(there)
        run = here.begin()
        await until(lambda: run.publisher._mirror.eager)
        layout = here.broker._layout
        await here.link._connected().ask(("DEL", layout.head(SESSION), layout.turn(SESSION)))
        run.say("x" * 100_000)
        await far.shows(run.text)


async def test_an_outdated_node_that_fills_an_empty_redis_disturbs_nobody(
    own: Nodes, own_redis: RedisServer
) -> None:
    """It publishes its attempt again before the newer one is there."""
    stale, here, there = await own.open(SLOW), await own.open(SLOW), await own.open(SLOW)
    old = stale.begin()
    old.say("first try")
    # Hears and learns nothing of the others.
    await listening(stale)
    stale.link.unsubscribe(stale.broker._layout.news(SESSION))
    async with there.tab().open() as tab:
        await tab.shows("first try")
        new = here.begin(attempt=2)
        new.say("second try")
        await tab.shows("second try")
        own_redis.kill()
        await until(lambda: not any(node.link.up for node in (stale, here, there)))
        with cut_off(here):
            own_redis.start()
            await both_up(stale, there)
            await head_is("1.1.9", there)
            assert tab.text == "second try"
        await both_up(here)
        new.say(" goes on")
        await tab.shows("second try goes on")
        assert tab.starts == [(1, 1), (1, 2)]
        old.say(" goes on as well")
        await asyncio.wait_for(old.looked.wait(), 5)
        assert stale.broker.fenced == 1
        new.end()
        await tab.sees_end()
        await head_is("1.2.end", there)


async def test_answers_that_get_lost_are_made_up_for(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was asked was done, and nobody knows."""
    dice = random.Random(3)
    here, there = await nodes.open(), await nodes.open()
    run_all = here.link.run_all
    losses = 0

    async def unreliable(calls: Sequence[Call]) -> list[Any]:
        nonlocal losses
        if dice.random() < 0.2:
            losses += 1
            raise BrokerAway("not sent")
        answers = await run_all(calls)
        if dice.random() < 0.2:
            losses += 1
            raise BrokerAway("the answer got lost")
        return answers

    monkeypatch.setattr(here.link, "run_all", unreliable)
    async with there.tab().open() as tab:
        await listening(there)
        for turn in range(1, 5):
            run = here.begin(turn)
            for n in range(30):
                run.say(f"{n} ")
                await asyncio.sleep(0.003)
            await tab.shows(run.text, turn=turn)
            run.end()
            await tab.sees_end(turn)
    assert losses > 10
    assert here.broker.fenced == 0
    await until(here.is_empty)


async def test_a_redis_that_takes_nothing_makes_the_node_not_ready(
    own: Nodes, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = await own.open(), await own.open()
    async with here.tab().open() as near, there.tab().open() as far:
        run = here.begin()
        run.say("one ")
        await far.shows("one ")
        await here.link._connected().ask(("CONFIG", "SET", "maxmemory", 1))
        run.say("two ")
        await near.shows("one two ")
        await until(lambda: not here.broker.ready)
        assert here.link.up
        assert "does not take what is sent" in caplog.text
        await here.link._connected().ask(("CONFIG", "SET", "maxmemory", 0))
        await far.shows("one two ")
        await until(lambda: here.broker.ready)


# What nobody announces


async def test_a_node_that_dies_after_storing_the_end_is_made_up_for_by_storage(
    nodes: Nodes,
) -> None:
    here, there = await nodes.open(SLOW), await nodes.open(replace(TIMES, quiet_s=0.3))
    async with there.tab().open() as tab:
        run = here.begin()
        run.say("one ")
        await tab.shows("one ")
        nodes.stored.store(run.live, "one ")
        await tab.sees_end()


async def test_a_turn_that_is_quiet_for_long_goes_on_all_the_same(nodes: Nodes) -> None:
    here, there = await nodes.open(SLOW), await nodes.open(replace(TIMES, quiet_s=0.1))
    async with there.tab().open() as tab:
        run = here.begin()
        run.publisher.place(position=1, eta_ms=None)
        run.say("one ")
        await tab.shows("one ")
        for _ in range(3):
            asked = tab.stored.asked
            await until(lambda asked=asked: tab.stored.asked > asked)  # type: ignore[misc]
            run.say("more ")
            await tab.shows(run.text)
        run.end()
        await tab.sees_end()
        assert tab.starts == [(1, 1)]


async def test_who_comes_while_redis_is_away_learns_from_storage_that_a_turn_is_over(
    own: Nodes, own_redis: RedisServer
) -> None:
    here, there = await own.open(), await own.open(replace(TIMES, quiet_s=0.3))
    run = here.begin()
    run.say("one ")
    own_redis.kill()
    await until(lambda: not there.link.up)
    async with there.tab().open() as tab:
        await until(lambda: tab.stored.asked)
        own.stored.store(run.live, "one ")
        await tab.sees_end()
        assert tab.text == "one "


async def test_storage_is_asked_about_every_session_after_the_link_was_lost_at_a_pace(
    own: Nodes, own_redis: RedisServer
) -> None:
    times = replace(SLOW, doubts_per_s=200)
    node = await own.open(times)
    rung: list[float] = []
    now = asyncio.get_running_loop().time
    async with asyncio.timeout(20):
        watches = [node.broker.watch(f"s{n}", lambda: rung.append(now())) for n in range(100)]
        channels = [watch.__enter__() for watch in watches]
        await until(lambda: all(node.broker._listens(f"s{n}") for n in range(100)))
        await until(lambda: not node.broker._comparing._due)
        assert sum(channel.doubts for channel in channels) == 0, "nothing can have been missed"
        own_redis.restart()
        await until(lambda: sum(channel.doubts for channel in channels) == 100)
        assert {channel.doubts for channel in channels} == {1}
        assert len(rung) == 100
        assert max(rung) - min(rung) >= 0.3
        for watch in watches:
            watch.__exit__(None, None, None)
    await until(node.is_empty)


async def test_who_comes_while_redis_is_away_asks_storage_when_it_is_back(
    own: Nodes, own_redis: RedisServer
) -> None:
    here, there = await own.open(SLOW), await own.open(SLOW)
    own_redis.kill()
    await until(lambda: not here.link.up and not there.link.up)
    async with there.tab().open() as tab:
        run = here.begin()
        run.say("all of it")
        run.end()
        assert tab.ended == []
        own_redis.start()
        await tab.sees_end()


def test_times_are_those_of_the_design() -> None:
    times = BrokerTimes()
    assert (times.lazy_s, times.compare_s, times.keep_s) == (0.2, 1.5, 60.0)
