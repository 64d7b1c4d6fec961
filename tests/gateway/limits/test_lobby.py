"""How many connections an address may have that are no WebSockets."""

from pathlib import Path

import anyio
import pytest

from gateway.limits.addresses import Proxies
from gateway.limits.lobby import Lobby
from gateway.listening import PeerLimits
from tests.gateway.harness import WITHIN_S
from tests.gateway.peers import Peer, serving

HERE, THERE = "198.51.100.7", "203.0.113.9"


def lobby(per_address: int = 2, *proxies: str) -> Lobby:
    return Lobby(per_address=per_address, proxies=Proxies(proxies))


def test_so_many_are_let_in_and_another_one_once_one_has_gone() -> None:
    place = lobby()
    first, second = place.enter(HERE), place.enter(HERE)
    assert first is not None
    assert second is not None
    assert place.enter(HERE) is None
    assert place.enter(THERE) is not None
    first.end()
    first.end()
    assert place.enter(HERE) is not None
    assert place.enter(HERE) is None


def test_when_all_have_gone_nothing_is_kept() -> None:
    place = lobby()
    stays = [place.enter(peer) for peer in (HERE, THERE, HERE, "2001:db8::1", "2001:db8::2")]
    for stay in stays:
        assert stay is not None
        stay.end()
    assert place._here == {}


def test_an_ipv6_network_is_one_address() -> None:
    place = lobby(1)
    assert place.enter("2001:db8::1") is not None
    assert place.enter("2001:db8::2") is None
    assert place.enter("2001:db8:0:1::1") is not None


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "10.0.0.7", None, "", "a socket"])
def test_this_machine_and_trusted_proxies_are_not_counted(peer: str | None) -> None:
    place = lobby(1, "10.0.0.0/8")
    assert all(place.enter(peer) is not None for _ in range(5))
    assert place._here == {}


def test_0_is_no_limit() -> None:
    place = lobby(0)
    assert all(place.enter(HERE) is not None for _ in range(5))


async def is_served(peer: Peer) -> bool:
    await peer.request("GET", "/api/health")
    served = (await peer.until(b"\r\n")).startswith(b"HTTP/1.1 200 ")
    await peer.until(b'"}')
    return served


async def test_a_peer_with_too_many_connections_is_dropped_at_once_and_others_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = lobby(2)
    monkeypatch.setattr(Lobby, "_counted", lambda *_: HERE)
    monkeypatch.setattr("gateway.server._lobby", lambda _: place)
    async with serving(tmp_path, PeerLimits()) as served:
        async with Peer(served.url) as first, Peer(served.url) as second:
            for peer in (first, second):
                assert await is_served(peer)
            with anyio.fail_after(WITHIN_S):
                async with Peer(served.url) as third:
                    assert await third.rest() == b""
            # A WebSocket is counted by its seat instead.
            await first.open()
            async with Peer(served.url) as third:
                assert await is_served(third)
        await served.all_gone()
    assert place._here == {}
