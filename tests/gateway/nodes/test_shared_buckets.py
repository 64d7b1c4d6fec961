"""What whoever takes from a bucket may rely on, be it of one process or of all nodes."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from typing import Any, Protocol

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.limits.buckets import MICROS, Buckets, MemoryBuckets, Rate
from gateway.nodes import buckets as shared
from gateway.nodes.buckets import SharedBuckets
from gateway.nodes.link import Link, open_link
from tests.gateway.nodes.queueing import TIMES, WITHIN_S, plain_client
from tests.servers.redis import RedisServer

NOWHERE = "redis://127.0.0.1:1/0"
BEGIN_US = 1_790_000_000_123_457
UPTIME_US = 4_000_000_123_457
RATE = Rate(7, burst=5)
INTERVAL_S = RATE.interval_us / MICROS


class Time(Protocol):
    """Stands still until it is moved."""

    def move(self, micros: int) -> None:
        """Let so much pass."""


class Clock:
    """A clock of a process."""

    def __init__(self) -> None:
        self.now_us = UPTIME_US

    def __call__(self) -> float:
        return self.now_us / MICROS

    def move(self, micros: int) -> None:
        self.now_us += micros


class RedisClock:
    """What the script takes for Redis' clock: a list with what `TIME` returns."""

    def __init__(self, client: Any, key: str) -> None:
        self._client = client
        self._key = key
        self._now_us = BEGIN_US
        self.move(0)

    def script(self, original: Any) -> Any:
        lua = original.lua.replace(
            "redis.call('TIME')", f"redis.call('LRANGE', '{self._key}', 0, 1)"
        )
        assert lua != original.lua
        return replace(original, lua=lua)

    def move(self, micros: int) -> None:
        self._now_us += micros
        self._client.delete(self._key)
        self._client.rpush(self._key, *divmod(self._now_us, MICROS))


ORIGINAL = shared.TAKE


@asynccontextmanager
async def opened(
    kind: str, url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Buckets, Time]]:
    clock = Clock()
    alone = MemoryBuckets(clock=clock)
    if kind == "memory":
        yield alone, clock
    elif kind == "redis that is away":
        async with open_link(NOWHERE, prefix=prefix, node="n1", times=TIMES) as link:
            yield SharedBuckets(link, alone), clock
    else:
        with plain_client(url) as client:
            time = RedisClock(client, f"{prefix}:clock")
            monkeypatch.setattr(shared, "TAKE", time.script(ORIGINAL))
            async with open_link(url, prefix=prefix, node="n1", times=TIMES) as link:
                yield SharedBuckets(link), time


KINDS = ("memory", "redis", "redis that is away")


@pytest.fixture(params=KINDS)
async def world(
    request: pytest.FixtureRequest,
    redis_url: str,
    redis_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[tuple[Buckets, Time]]:
    with anyio.fail_after(30):
        async with opened(request.param, redis_url, redis_prefix, monkeypatch) as world:
            yield world


World = tuple[Buckets, Time]


async def burst(buckets: Buckets, rate: Rate = RATE, key: str = "k") -> int:
    """Take what there is; return how much that was."""
    for number in count():
        if await buckets.take(key, rate):
            return number
    raise AssertionError


async def test_as_many_as_fit_pass_at_once_and_the_next_is_told_how_long(world: World) -> None:
    buckets, _ = world
    waits = [await buckets.take("k", RATE) for _ in range(RATE.size + 2)]
    assert waits == [0.0] * RATE.size + [INTERVAL_S] * 2


async def test_after_exactly_the_wait_one_more_passes_and_not_before(world: World) -> None:
    buckets, time = world
    await burst(buckets)
    time.move(RATE.interval_us - 1)
    assert await buckets.take("k", RATE) == 1 / MICROS
    time.move(1)
    assert await buckets.take("k", RATE) == 0.0
    assert await buckets.take("k", RATE) == INTERVAL_S


async def test_a_wait_gets_shorter_as_time_passes(world: World) -> None:
    buckets, time = world
    await burst(buckets)
    for passed in (1, 2, 3):
        time.move(MICROS)
        assert await buckets.take("k", RATE) == INTERVAL_S - passed


async def test_a_bucket_fills_again_and_does_not_overflow(world: World) -> None:
    buckets, time = world
    assert await burst(buckets) == 5
    time.move(2 * RATE.interval_us)
    assert await burst(buckets) == 2
    time.move(5 * RATE.interval_us - 1)
    assert await burst(buckets) == 4
    time.move(100 * RATE.interval_us)
    assert await burst(buckets) == 5


async def test_to_be_refused_costs_nothing(world: World) -> None:
    buckets, time = world
    await burst(buckets)
    for _ in range(20):
        await buckets.take("k", RATE)
    time.move(RATE.interval_us)
    assert await buckets.take("k", RATE) == 0.0


async def test_everybody_has_a_bucket_of_their_own(world: World) -> None:
    buckets, _ = world
    for key in ("k", "k2", "사람:1", "2001:db8::/64", ""):
        assert await burst(buckets, key=key) == 5


async def test_without_a_limit_everything_passes(world: World) -> None:
    buckets, _ = world
    assert [await buckets.take("k", Rate(0)) for _ in range(100)] == [0.0] * 100


async def test_a_bucket_of_one_gives_one_at_a_time(world: World) -> None:
    buckets, time = world
    rate = Rate(1)
    assert [await buckets.take("k", rate) for _ in range(2)] == [0.0, 60.0]
    time.move(60 * MICROS)
    assert [await buckets.take("k", rate) for _ in range(2)] == [0.0, 60.0]


async def test_who_is_given_another_rate_waits_no_longer_than_by_that(world: World) -> None:
    buckets, time = world
    await burst(buckets, Rate(1, burst=100))
    faster = Rate(6, burst=2)
    assert await buckets.take("k", faster) == 10.0
    time.move(10 * MICROS)
    assert [await buckets.take("k", faster) for _ in range(2)] == [0.0, 10.0]


async def test_of_many_who_come_together_no_more_pass_than_alone(world: World) -> None:
    buckets, _ = world
    waits = await asyncio.gather(*[buckets.take("k", Rate(7, burst=20)) for _ in range(50)])
    assert sorted(waits) == [0.0] * 20 + [INTERVAL_S] * 30


# Against a model

_rates = st.builds(Rate, st.integers(0, 7), st.one_of(st.none(), st.integers(1, 9)))
_steps = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.one_of(
            st.just(0), st.integers(0, 70 * MICROS), st.sampled_from([10 * MICROS, 60 * MICROS])
        ),
    ),
    max_size=25,
)


class Model:
    """Buckets as one would draw them: so many tokens, of which so many come in a microsecond."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._levels: dict[str, tuple[int, int]] = {}

    def take(self, key: str, now_us: int) -> int:
        """Return how long to wait; levels are in microseconds' worth of tokens."""
        if self._rate.per_minute == 0:
            return 0
        token, most = self._rate.interval_us, self._rate.size * self._rate.interval_us
        level, then = self._levels.get(key, (most, now_us))
        level = min(level + now_us - then, most)
        enough = level >= token
        self._levels[key] = (level - token if enough else level, now_us)
        return 0 if enough else token - level


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=40,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rate=_rates, steps=_steps)
def test_buckets_fill_and_empty_as_drawn(
    rate: Rate, steps: list[tuple[str, int]], *, kind: str, redis_url: str, request: Any
) -> None:
    async def play(monkeypatch: pytest.MonkeyPatch) -> None:
        prefix = f"{request.getfixturevalue('redis_prefix')}:{next(_numbers)}"
        async with opened(kind, redis_url, prefix, monkeypatch) as (buckets, time):
            model, now_us = Model(rate), 0
            for key, passed_us in steps:
                now_us += passed_us
                time.move(passed_us)
                assert await buckets.take(key, rate) == model.take(key, now_us) / MICROS

    with pytest.MonkeyPatch.context() as monkeypatch, asyncio.Runner() as runner:
        runner.run(play(monkeypatch))


_numbers = count()


# Redis itself


@pytest.fixture
async def link(redis_url: str, redis_prefix: str) -> AsyncIterator[Link]:
    with anyio.fail_after(30):
        async with open_link(redis_url, prefix=redis_prefix, node="n1", times=TIMES) as link:
            yield link


async def test_nodes_take_from_the_same_bucket(
    link: Link, redis_url: str, redis_prefix: str
) -> None:
    async with open_link(redis_url, prefix=redis_prefix, node="n2", times=TIMES) as other:
        here, there = SharedBuckets(link), SharedBuckets(other)
        taken = [await nodes.take("k", Rate(1, burst=4)) for nodes in (here, there) * 3]
    assert taken[:4] == [0.0] * 4
    assert all(30 < wait <= 60 for wait in taken[4:])


async def test_the_time_is_that_of_redis_and_a_bucket_lasts_until_it_is_full(
    link: Link, redis_url: str
) -> None:
    buckets, rate, key = SharedBuckets(link), Rate(1, burst=3), link.key("bucket:k")
    with plain_client(redis_url) as client:
        redis: Any = client
        for taken in (1, 2, 3):
            await buckets.take("k", rate)
            assert 60_000 * taken - 30_000 < redis.pttl(key) <= 60_000 * taken
        seconds, micros = redis.time()
        left_us = int(redis.get(key)) - (seconds * MICROS + micros)
        assert 150 * MICROS < left_us <= 180 * MICROS
        redis.decrby(key, 60 * MICROS)
        assert [await buckets.take("k", rate) > 0 for _ in range(2)] == [False, True]
        assert redis.keys(link.key("*")) == [key]


async def test_to_be_refused_writes_nothing(link: Link, redis_url: str) -> None:
    buckets, rate, key = SharedBuckets(link), Rate(1), link.key("bucket:k")
    with plain_client(redis_url) as client:
        await buckets.take("k", rate)
        client.persist(key)
        assert await buckets.take("k", rate) > 0
        # A write would have made it expire again.
        assert client.pttl(key) == -1


async def test_a_clock_that_was_set_back_keeps_nobody_waiting(link: Link, redis_url: str) -> None:
    buckets, rate, key = SharedBuckets(link), Rate(1, burst=3), link.key("bucket:k")
    with plain_client(redis_url) as client:
        redis: Any = client
        await buckets.take("k", rate)
        redis.incrby(key, 86_400 * MICROS)
        assert await buckets.take("k", rate) == 60.0
        redis.decrby(key, 60 * MICROS)
        assert await buckets.take("k", rate) == 0.0
        assert redis.pttl(key) <= 180_000


# Redis that is away


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [record for record in caplog.records if record.name == "gateway.nodes.buckets"]
    return [record.getMessage().split(":")[0] for record in records]


ALONE = "rates are limited by each node for itself"
TOGETHER = "rates are limited for all nodes together again"


async def test_an_outage_is_said_once_and_so_is_its_end(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with anyio.fail_after(60):
        async with open_link(own_redis.url, prefix="p", node="n1", times=TIMES) as link:
            buckets, rate = SharedBuckets(link), Rate(1, burst=2)
            for outage in (1, 2):
                assert await buckets.take(f"k{outage}", rate) == 0.0
                own_redis.kill()
                waits = [await buckets.take(f"k{outage}", rate) for _ in range(5)]
                assert waits[:2] == [0.0, 0.0]
                assert all(30 < wait <= 60 for wait in waits[2:])
                await regained(link, own_redis)
                # What Redis has forgotten is full, and what was counted here is left here.
                assert await burst(buckets, rate, f"k{outage}") == 2
                assert said(caplog) == [ALONE, TOGETHER] * outage


async def regained(link: Link, server: RedisServer) -> None:
    back = asyncio.Event()
    link.when_up(back.set)
    server.start()
    await asyncio.wait_for(back.wait(), WITHIN_S)


async def test_an_answer_asked_for_before_a_failure_does_not_end_the_outage(
    link: Link, caplog: pytest.LogCaptureFixture, redis_url: str
) -> None:
    caplog.set_level(logging.INFO)
    buckets, rate = SharedBuckets(link), Rate(1, burst=9)
    with plain_client(redis_url) as client:
        client.rpush(link.key("bucket:broken"), "no number")
    keys = ["k", "broken"] * 4
    await asyncio.gather(*[buckets.take(key, rate) for key in keys])
    assert said(caplog) == [ALONE]
    assert await buckets.take("k", rate) == 0.0
    assert said(caplog) == [ALONE, TOGETHER]


async def test_a_script_that_fails_lets_nobody_in_for_nothing(
    link: Link, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with plain_client(redis_url) as client:
        client.rpush(link.key("bucket:k"), "no number")
    assert await burst(SharedBuckets(link)) == 5
    assert said(caplog) == [ALONE]


async def test_whoever_gives_up_waiting_leaves_the_buckets_whole(link: Link) -> None:
    buckets, rate = SharedBuckets(link), Rate(1, burst=20)
    tasks = [asyncio.create_task(buckets.take("k", rate)) for _ in range(10)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.wait(tasks)
    assert [task.result() for task in tasks[1::2]] == [0.0] * 5
    assert 10 <= await burst(buckets, rate) <= 15
