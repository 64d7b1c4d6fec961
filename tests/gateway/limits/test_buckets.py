"""What rates are, and what one process keeps of its buckets; `test_shared_buckets` has the rest."""

import tracemalloc
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.limits.buckets import MAX_LOOKS, MICROS, MemoryBuckets, Rate, taken

SLOW = Rate(1, burst=3)


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def empty(buckets: MemoryBuckets, key: str, rate: Rate = SLOW) -> None:
    while buckets.take_now(key, rate) == 0.0:
        pass


# Rates


@pytest.mark.parametrize(
    ("per_minute", "size"), [(1, 1), (4, 1), (5, 2), (20, 5), (60, 15), (100_000, 25_000)]
)
def test_a_burst_is_a_quarter_of_a_minute_unless_it_is_said(per_minute: int, size: int) -> None:
    assert Rate(per_minute).size == size
    assert Rate(per_minute, burst=7).size == 7


@pytest.mark.parametrize(("per_minute", "burst"), [(-1, None), (1, 0), (1, -1), (0, 0)])
def test_a_rate_that_is_none_is_refused(per_minute: int, burst: int | None) -> None:
    with pytest.raises(ValueError, match=r"less than none|let nothing pass"):
        Rate(per_minute, burst)


@given(st.integers(1, 10_000))
def test_a_minute_brings_no_more_than_the_rate_and_hardly_less(per_minute: int) -> None:
    interval_us = Rate(per_minute).interval_us
    assert 0 <= interval_us - 60 * MICROS / per_minute < 1


@given(st.integers(0, 10**10), st.integers(0, 10**10), st.integers(1, 5_000), st.integers(1, 50))
def test_nobody_waits_longer_than_a_token_takes_to_come(
    full_at: int, now: int, per_minute: int, burst: int
) -> None:
    rate = Rate(per_minute, burst)
    then, wait = taken(full_at, now, rate)
    assert 0 <= wait <= rate.interval_us
    assert now <= then <= now + burst * rate.interval_us
    if wait:
        assert taken(then, now + wait - 1, rate)[1] == 1
        assert taken(then, now + wait, rate)[1] == 0


@given(st.integers(0, 10**14), st.integers(1, 5_000))
def test_exactly_the_wait_is_enough_whatever_the_clock_says(now_us: int, per_minute: int) -> None:
    clock = Clock()
    buckets, rate = MemoryBuckets(clock=clock), Rate(per_minute, burst=1)
    clock.now = now_us / MICROS
    buckets.take_now("k", rate)
    clock.now = (now_us + rate.interval_us) / MICROS
    assert buckets.take_now("k", rate) == 0.0


# What is kept


def test_what_is_not_limited_is_not_kept(clock: Clock) -> None:
    buckets = MemoryBuckets(clock=clock)
    assert [buckets.take_now("k", Rate(0)) for _ in range(1_000)] == [0.0] * 1_000
    assert len(buckets) == 0


def test_full_buckets_are_forgotten_when_others_come(clock: Clock) -> None:
    buckets = MemoryBuckets(clock=clock)
    for n in range(50):
        buckets.take_now(f"early {n}", SLOW)
    clock.now += 60
    for n in range(10):
        buckets.take_now(f"late {n}", SLOW)
    assert len(buckets) == 10


def test_a_bucket_that_was_taken_from_again_is_not_full_when_it_first_would_have_been(
    clock: Clock,
) -> None:
    buckets = MemoryBuckets(clock=clock)
    for key in "abc":
        empty(buckets, key)
    clock.now += 90
    buckets.take_now("new", SLOW)
    assert len(buckets) == 4
    assert [buckets.take_now("a", SLOW) for _ in range(2)] == [0.0, 30.0]


def test_no_more_are_kept_than_may_be(clock: Clock) -> None:
    buckets = MemoryBuckets(clock=clock, max_keys=100)
    for n in range(1_000):
        buckets.take_now(str(n), SLOW)
        assert len(buckets) <= 100
        assert len(buckets) == len(buckets._fullest)


def test_ever_new_keys_do_not_make_it_forget_who_has_taken_too_much(clock: Clock) -> None:
    buckets = MemoryBuckets(clock=clock, max_keys=10)
    for key in "abcde":
        empty(buckets, key)
    for n in range(1_000):
        buckets.take_now(str(n), SLOW)
    assert [buckets.take_now(key, SLOW) for key in "abcde"] == [60.0] * 5


def test_making_room_takes_a_few_looks_however_many_were_taken_from_again(clock: Clock) -> None:
    keys = 20 * MAX_LOOKS
    buckets = MemoryBuckets(clock=clock, max_keys=keys)
    for n in range(keys):
        buckets.take_now(str(n), SLOW)
    for n in range(keys):
        buckets.take_now(str(n), SLOW)
    first = buckets._fullest[0]
    noted = sorted(at for at, _ in buckets._fullest)
    buckets.take_now("new", SLOW)
    assert len(buckets) == keys
    put_off = sum(at > first[0] for at, _ in buckets._fullest)
    assert put_off == MAX_LOOKS
    assert noted[0] == noted[-1]


def test_a_bucket_is_cheap(clock: Clock) -> None:
    buckets = MemoryBuckets(clock=clock)
    keys = [f"address:2001:db8:{n:x}::/64" for n in range(10_000)]
    tracemalloc.start()
    try:
        for key in keys:
            buckets.take_now(key, SLOW)
        weight, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert weight / len(keys) < 200


_takes = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 40)), max_size=120)


@settings(deadline=None)
@given(_takes, st.integers(1, 8))
def test_it_forgets_to_nobodys_disadvantage_and_only_where_there_is_no_room(
    takes: list[tuple[str, int]], max_keys: int
) -> None:
    """Against buckets that forget nothing which is not full."""
    clock = Clock()
    small, large = MemoryBuckets(clock=clock, max_keys=max_keys), MemoryBuckets(clock=clock)
    crowded = False
    # What somebody was given that a bucket which was not forgotten would not have had.
    more: Counter[str] = Counter()
    for key, passed_s in takes:
        clock.now += passed_s
        waits = [buckets.take_now(key, SLOW) for buckets in (small, large)]
        crowded = crowded or len(large) > max_keys
        more[key] += (not waits[0]) - (not waits[1])
        assert more[key] >= 0
        assert crowded or waits[0] == waits[1]
        assert len(small) <= max_keys
