"""Whom limits count: whoever a proxy that is trusted names, and nobody by what they say alone."""

import pytest

from tests.gateway.harness import Gateway
from tests.gateway.limited.visitors import HERE, THERE, Begin, turned_away, visit

LIMITS = {"max_connections_per_address": 1, "sessions_per_minute": 0}


async def finds_a_seat(visitor: Gateway) -> bool:
    """Whether a visitor is let in, now."""
    async with visitor.tab():
        return True


async def is_full(visitor: Gateway) -> bool:
    """Whether a visitor is turned away, for its address has all it may have."""
    error, code = await turned_away(visitor)
    return (error["code"], code) == ("rate_limited", 4505)


async def test_each_address_that_a_trusted_proxy_names_is_counted_for_itself(
    limited: Begin,
) -> None:
    async with (
        limited(**LIMITS) as gateway,
        visit(gateway, address=HERE) as visitor,
        visit(gateway, address=THERE) as other,
        visitor.tab(),
    ):
        assert await is_full(visitor)
        assert await finds_a_seat(other)
        assert gateway.house.entrance.occupancy.from_address(HERE) == 1


async def test_what_nobody_is_trusted_to_say_is_not_looked_at(limited: Begin) -> None:
    async with (
        limited(trusted_proxies="", **LIMITS) as gateway,
        visit(gateway, address=HERE) as visitor,
        visitor.tab(),
        visitor.tab(),
    ):
        assert gateway.house.entrance.occupancy.from_address(HERE) == 0


async def test_who_is_no_trusted_proxy_is_counted_itself(limited: Begin) -> None:
    """The header of a peer that is not trusted says nothing; here it is one behind the proxy."""
    async with (
        limited(**LIMITS) as gateway,
        visit(gateway, address=f"{HERE}, {THERE}") as visitor,
        visit(gateway, address=THERE) as itself,
        visitor.tab(),
    ):
        assert await is_full(itself)


@pytest.mark.parametrize(
    "spoofed",
    [THERE, "127.0.0.1", "127.0.0.1, 127.0.0.1", "unknown", "", "x" * 5_000, f"{THERE}," * 200],
)
async def test_what_a_client_writes_in_front_of_its_address_does_not_help(
    limited: Begin, spoofed: str
) -> None:
    async with (
        limited(**LIMITS) as gateway,
        visit(gateway, address=HERE) as visitor,
        visit(gateway, address=f"{spoofed}, {HERE}") as again,
        visitor.tab(),
    ):
        assert await is_full(again)
        assert gateway.house.entrance.occupancy.from_address(HERE) == 1


async def test_a_way_over_several_trusted_proxies_leads_to_who_was_first(limited: Begin) -> None:
    async with (
        limited(**LIMITS | {"trusted_proxies": "127.0.0.1, 10.0.0.0/8"}) as gateway,
        visit(gateway, address=f"{THERE}, {HERE}, 10.0.0.9, 10.1.2.3") as visitor,
        visit(gateway, address=HERE) as again,
        visit(gateway, address=f"{HERE}, 10.0.0.9, {THERE}") as other,
        visitor.tab(),
    ):
        assert await is_full(again)
        assert await finds_a_seat(other)


async def test_a_network_of_ipv6_is_one_address(limited: Begin) -> None:
    async with (
        limited(**LIMITS) as gateway,
        visit(gateway, address="2001:db8:1:2::1") as visitor,
        visit(gateway, address="2001:db8:1:2:ffff::2") as neighbour,
        visit(gateway, address="2001:db8:1:3::1") as other,
        visitor.tab(),
    ):
        assert await is_full(neighbour)
        assert await finds_a_seat(other)


@pytest.mark.parametrize("address", [None, "127.0.0.1", "::1", "127.8.9.1, 127.0.0.1"])
async def test_this_machine_is_not_limited_by_address(limited: Begin, address: str | None) -> None:
    limits = {"handshakes_per_minute": 1, "messages_per_minute": 1, "sessions_per_minute": 1}
    async with (
        limited(**LIMITS | limits) as gateway,
        visit(gateway, address=address) as visitor,
        visitor.tab(),
        visitor.tab(),
        visitor.tab(),
    ):
        assert gateway.house.entrance.occupancy.total == 3


async def test_requests_are_counted_by_the_same_address(served_limited: Begin) -> None:
    async with (
        served_limited(**LIMITS) as gateway,
        visit(gateway, address=HERE) as visitor,
        visit(gateway, address=f"{THERE}, {HERE}") as again,
        visit(gateway, address=THERE) as other,
        visitor.tab() as tab,
    ):
        path = f"/api/sessions/{tab.session_id}/events"
        assert (await again.http.get(path)).status_code == 429
        async with other.sse("GET", path) as stream:
            await stream.next("ready")
