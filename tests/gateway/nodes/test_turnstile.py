"""The scripts of the queue, asked directly: what they decide, and by whose time."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import anyio
import pytest

from gateway.nodes.link import Link, open_link
from gateway.nodes.turnstile import ADMITTED, FULL, Answer, Release, Renewal, Rules, Turnstile, read
from tests.gateway.nodes.queueing import TIMES, WITHIN_S, Deployment, deployed

RULES = Rules(max_calls=1, max_waiting=10)


class Door:
    """Asks the scripts as nodes would, and moves the times in Redis instead of waiting."""

    def __init__(self, link: Link, here: Deployment) -> None:
        self.link = link
        self.here = here
        # Its type hints say of every answer that it might be awaitable.
        self.redis: Any = here.client
        self.rules = RULES
        self.epoch = ""
        self._tickets: dict[str, str] = {}

    @property
    def turnstile(self) -> Turnstile:
        return Turnstile(self.link.prefix, self.rules)

    async def reserve(
        self, place: str, *, epoch: str | None = None, even_if_full: bool = False
    ) -> int:
        """Return the position."""
        known = self.epoch if epoch is None else epoch
        call = self.turnstile.reserve(place, even_if_full=even_if_full, epoch=known)
        answer = read(await self.link.run(call.script, call.keys, call.args))
        self.epoch = answer.epoch
        position, self._tickets[place] = answer.rest
        assert isinstance(position, int)
        return position

    async def renew(
        self, *, calls: str = "", waits: str = "", epoch: str | None = None
    ) -> list[int]:
        """Return the positions of those that wait."""
        renewals = [Renewal("call", place) for place in calls.split()]
        renewals += [Renewal("wait", place, self._tickets[place]) for place in waits.split()]
        known = self.epoch if epoch is None else epoch
        call = self.turnstile.renew(renewals, epoch=known)
        answer = read(await self.link.run(call.script, call.keys, call.args))
        self.epoch = answer.epoch
        return answer.rest

    async def release(self, place: str, cool_down_s: float = 0.0) -> Answer:
        call = self.turnstile.release([Release(place, cool_down_s, None)], epoch=self.epoch)
        return read(await self.link.run(call.script, call.keys, call.args))

    def age(self, *names: str, seconds: float) -> None:
        """Let leases lapse that much sooner."""
        for name in names:
            for place in self.redis.zrange(self.here.key(name), 0, -1):
                self.redis.zincrby(self.here.key(name), -seconds * 1_000, place)

    def pass_unheard(self, seconds: float) -> None:
        """Let nobody have asked for so long."""
        self.age("calls", "leases", seconds=seconds)
        for name in ("seen", "quiet", "patient"):
            if self.redis.hexists(self.here.key("state"), name):
                self.redis.hincrby(self.here.key("state"), name, round(-seconds * 1_000))

    def forget(self) -> str:
        """Lose everything; return the epoch that nodes remember."""
        names = ("calls", "waiting", "leases", "state")
        self.redis.delete(*[self.here.key(name) for name in names])
        return self.epoch


@pytest.fixture
async def door(redis_url: str, redis_prefix: str) -> AsyncIterator[Door]:
    with anyio.fail_after(30):
        async with (
            deployed(redis_url, redis_prefix) as here,
            open_link(redis_url, prefix=redis_prefix, node="n1", times=TIMES) as link,
        ):
            yield Door(link, here)


# Admission


async def test_whoever_comes_is_admitted_or_waits_or_is_refused(door: Door) -> None:
    door.rules = replace(RULES, max_calls=2, max_waiting=1)
    positions = [await door.reserve(f"n1|{n}") for n in range(4)]
    assert positions == [ADMITTED, ADMITTED, 1, FULL]
    assert await door.reserve("n1|9", even_if_full=True) == 2


async def test_nobody_overtakes_who_waits_though_a_call_is_free(door: Door) -> None:
    await door.reserve("dead|1")
    await door.reserve("n1|1")
    door.age("calls", seconds=RULES.lease_s)
    assert await door.reserve("n2|1") == 1
    assert door.here.calls == ["n1|1"]


async def test_a_queue_that_is_about_to_move_up_is_not_full(door: Door) -> None:
    door.rules = replace(RULES, max_waiting=1)
    await door.reserve("dead|1")
    await door.reserve("n1|1")
    door.age("calls", seconds=RULES.lease_s)
    assert await door.reserve("n2|1") == 1
    assert await door.reserve("n2|2") == FULL


async def test_an_admission_is_announced_to_its_node_and_to_no_other(door: Door) -> None:
    heard: list[tuple[str, str]] = []
    came = asyncio.Event()

    def hear(node: str, place: str) -> None:
        heard.append((node, place))
        came.set()

    for node in ("n2", "n|3"):
        stands = asyncio.Event()
        door.link.subscribe(
            door.turnstile.channel(node),
            lambda place, node=node: hear(node, place),  # type: ignore[misc] # what it infers
            stands.set,
        )
        await asyncio.wait_for(stands.wait(), WITHIN_S)
    for place in ("n1|1", "n2|1", "n|3|1"):
        await door.reserve(place)
    for place in ("n1|1", "n2|1"):
        came.clear()
        await door.release(place)
        await asyncio.wait_for(came.wait(), WITHIN_S)
    assert heard == [("n2", "n2|1"), ("n|3", "n|3|1")]


async def test_a_place_is_given_back_whether_it_waits_or_calls_or_never_was(door: Door) -> None:
    for n in range(3):
        await door.reserve(f"n1|{n}")
    for place in ("n1|1", "n1|7", "n1|0"):
        answer = await door.release(place)
    assert (answer.calls, answer.waiting) == (1, 0)
    assert door.here.calls == ["n1|2"]


# Leases


async def test_who_lapsed_while_it_called_calls_on_and_nobody_else_until_it_ends(
    door: Door,
) -> None:
    """One call too many, which a node that stood still has on its conscience."""
    for place in ("asleep|1", "n1|1", "n1|2"):
        await door.reserve(place)
    door.age("calls", seconds=RULES.lease_s)
    assert await door.renew(waits="n1|1 n1|2") == [ADMITTED, 1]
    await door.renew(calls="asleep|1")
    assert sorted(door.here.calls) == ["asleep|1", "n1|1"]
    assert (await door.release("n1|1")).waiting == 1
    assert (await door.release("asleep|1")).waiting == 0


# Redis that forgot


async def test_there_is_one_time_of_quiet_however_many_come(door: Door) -> None:
    await door.reserve("n1|1")
    before = door.forget()
    await door.renew(epoch=before)
    after = door.epoch
    assert after != before
    assert await door.reserve("n2|1") == 1
    # The second to notice comes late.
    state = door.here.key("state")
    quiet = door.redis.hget(state, "quiet")
    await door.renew(calls="n1|1", epoch=before)
    assert door.redis.hget(state, "quiet") == quiet
    assert door.here.calls == ["n1|1"]


async def test_a_new_node_that_comes_first_does_not_hide_it(door: Door) -> None:
    await door.reserve("n1|1")
    before = door.forget()
    await door.renew(epoch="")
    assert await door.reserve("n1|2", epoch=before) == 1


async def test_a_second_time_is_noticed_too(door: Door) -> None:
    await door.reserve("n1|1")
    await door.renew(epoch=door.forget())
    await door.renew(epoch=door.forget())
    assert await door.reserve("n1|2") == 1


# Redis that stood still


async def test_who_lapsed_because_nobody_could_renew_is_not_missed(door: Door) -> None:
    await door.reserve("n1|1")
    await door.reserve("n2|1")
    door.pass_unheard(60)
    assert await door.renew(waits="n2|1") == [1]
    assert await door.reserve("n2|2") == 2
    await door.renew(calls="n1|1")
    assert (door.here.calls, door.here.waiting) == (["n1|1"], ["n2|1", "n2|2"])


async def test_after_a_deployment_that_ended_in_order_the_next_one_is_served_at_once(
    door: Door,
) -> None:
    await door.reserve("n1|1")
    await door.release("n1|1")
    door.pass_unheard(60)
    assert await door.reserve("n2|1", epoch="") == ADMITTED


async def test_of_a_deployment_that_died_nothing_is_left_once_all_had_time_to_come(
    door: Door,
) -> None:
    await door.reserve("dead|1")
    await door.reserve("dead|2")
    door.pass_unheard(60)
    assert await door.reserve("n1|1", epoch="") == 2
    for _ in range(2):
        assert await door.renew(waits="n1|1") == [2]
        door.pass_unheard(RULES.quiet_s / 2)
    assert await door.renew(waits="n1|1") == [ADMITTED]
    assert (door.here.calls, door.here.waiting) == (["n1|1"], [])
