"""Tickets, with the same words for both places where they are kept."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import anyio
import pytest

from gateway.auth.principal import Principal
from gateway.auth.tickets import MAX_TICKETS, TICKET_S, MemoryTickets, Tickets, digest_of
from gateway.nodes.away import BrokerAway
from gateway.nodes.link import open_link
from gateway.nodes.tickets import RedisTickets
from tests.gateway.auth.signing import Clock
from tests.gateway.nodes.queueing import TIMES, plain_client, until
from tests.servers.redis import RedisServer

ALICE = Principal("jwt:앨리스", "jwt:앨리스", "jwt:k1", 1_900_000_000.5)


@dataclass(frozen=True)
class Place:
    """Tickets, and a way to let time pass for one of them."""

    tickets: Tickets
    age: Callable[[str, float], object]
    kept: Callable[[], str]


@pytest.fixture(params=["memory", "redis"])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    with anyio.fail_after(30):
        if request.param == "memory":
            clock = Clock(0.0)
            tickets = MemoryTickets(clock=clock)

            def pass_by(ticket: str, seconds: float) -> None:
                clock.now += seconds

            yield Place(tickets, pass_by, lambda: repr(vars(tickets)))
            return
        url = request.getfixturevalue("redis_url")
        prefix = request.getfixturevalue("redis_prefix")
        async with AsyncExitStack() as stack:
            redis = stack.enter_context(plain_client(url))
            link = await stack.enter_async_context(
                open_link(url, prefix=prefix, node="n1", times=TIMES)
            )

            def age(ticket: str, seconds: float) -> None:
                key = f"{prefix}:ticket:{{{digest_of(ticket)}}}"
                left = redis.pttl(key)
                assert isinstance(left, int)
                redis.pexpire(key, round(left - seconds * 1000))

            def kept() -> str:
                keys = list(redis.scan_iter(f"{prefix}:*"))
                return repr([(key, redis.get(key)) for key in keys])

            yield Place(RedisTickets(link), age, kept)


async def test_a_ticket_stands_for_whom_it_was_issued(place: Place) -> None:
    ticket = await place.tickets.issue(ALICE)
    assert await place.tickets.redeem(ticket) == ALICE


async def test_a_ticket_is_used_once(place: Place) -> None:
    ticket = await place.tickets.issue(ALICE)
    await place.tickets.redeem(ticket)
    assert await place.tickets.redeem(ticket) is None


async def test_of_many_that_use_a_ticket_at_once_one_gets_in(place: Place) -> None:
    ticket = await place.tickets.issue(ALICE)
    got = await asyncio.gather(*[place.tickets.redeem(ticket) for _ in range(50)])
    assert sorted(map(repr, got)) == sorted([repr(ALICE)] + ["None"] * 49)


async def test_a_ticket_that_was_never_issued_is_none(place: Place) -> None:
    ticket = await place.tickets.issue(ALICE)
    for wrong in ("", "x", ticket[:-1], ticket + "x", digest_of(ticket)):
        assert await place.tickets.redeem(wrong) is None
    assert await place.tickets.redeem(ticket) == ALICE


async def test_a_ticket_is_good_for_its_time_and_no_longer(place: Place) -> None:
    early, late = [await place.tickets.issue(ALICE) for _ in range(2)]
    place.age(early, TICKET_S - 5)
    assert await place.tickets.redeem(early) == ALICE
    place.age(late, TICKET_S)
    assert await place.tickets.redeem(late) is None


async def test_a_ticket_cannot_be_guessed_and_fits_into_a_url(place: Place) -> None:
    issued = {await place.tickets.issue(ALICE) for _ in range(20)}
    assert len(issued) == 20
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", ticket) for ticket in issued)


async def test_what_is_kept_cannot_be_used_as_a_ticket(place: Place) -> None:
    ticket = await place.tickets.issue(ALICE)
    assert digest_of(ticket) in place.kept()
    assert ticket not in place.kept()


# In memory


async def test_there_are_so_many_tickets_and_the_oldest_makes_room() -> None:
    tickets = MemoryTickets(clock=Clock(0.0))
    issued = [await tickets.issue(ALICE) for _ in range(MAX_TICKETS + 1)]
    assert len(tickets._kept) == MAX_TICKETS
    assert await tickets.redeem(issued[0]) is None
    assert await tickets.redeem(issued[1]) == ALICE
    assert await tickets.redeem(issued[-1]) == ALICE


async def test_tickets_that_nobody_used_are_forgotten() -> None:
    clock = Clock(0.0)
    tickets = MemoryTickets(clock=clock)
    for _ in range(10):
        await tickets.issue(ALICE)
    clock.now += TICKET_S
    await tickets.issue(ALICE)
    assert len(tickets._kept) == 1


# In Redis


async def test_another_node_takes_the_ticket(redis_url: str, redis_prefix: str) -> None:
    with anyio.fail_after(30):
        async with (
            open_link(redis_url, prefix=redis_prefix, node="n1", times=TIMES) as here,
            open_link(redis_url, prefix=redis_prefix, node="n2", times=TIMES) as there,
        ):
            ticket = await RedisTickets(here).issue(ALICE)
            assert await RedisTickets(there).redeem(ticket) == ALICE


async def test_what_another_release_wrote_is_no_ticket(redis_url: str, redis_prefix: str) -> None:
    with anyio.fail_after(30), plain_client(redis_url) as redis:
        async with open_link(redis_url, prefix=redis_prefix, node="n1", times=TIMES) as link:
            redis.set(f"{redis_prefix}:ticket:{{{digest_of('x')}}}", '{"who": "alice"}', ex=60)
            assert await RedisTickets(link).redeem("x") is None


async def test_without_redis_there_are_no_tickets(own_redis: RedisServer) -> None:
    with anyio.fail_after(30):
        async with open_link(own_redis.url, prefix="test", node="n1", times=TIMES) as link:
            tickets = RedisTickets(link)
            ticket = await tickets.issue(ALICE)
            own_redis.kill()
            await until(lambda: not link.up)
            with pytest.raises(BrokerAway):
                await tickets.issue(ALICE)
            with pytest.raises(BrokerAway):
                await tickets.redeem(ticket)
