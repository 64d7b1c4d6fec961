"""Where a request comes from, as far as the proxies in front of the gateway can be believed.

Each proxy appends the address of whoever connected to it to `X-Forwarded-For`. So the header is
read from the right, for as long as those who speak are trusted: what stands further to the left
was sent by the client, which can write there what it likes.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

MAX_HOPS = 64
MAX_HEADER_CHARS = 4_096
"""So much of the header is looked at, from the right; it has as many bytes."""

UNREADABLE = "unknown"
"""What all count by of whom a proxy on this machine says nothing that can be read."""

COUNTED_BITS = 64
"""What one customer usually has of IPv6 (RFC 6177), with more addresses than could be counted."""

_MAPPED_BITS = 96  # ::ffff:0:0/96, RFC 4291, section 2.5.5.2
_WITH_PORT = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}")

Address = IPv4Address | IPv6Address


class Proxies:
    """The proxies that are trusted to say who connected to them.

    Made of addresses and networks, such as `10.0.0.7`, `10.0.0.0/8` and `fd00::/8`; raises
    `ValueError`, which names the entry, if one is neither.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self._networks = tuple(_network(entry) for entry in entries)

    def __contains__(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def address_of(peer: str | None, forwarded_for: Sequence[str], *, proxies: Proxies) -> str | None:
    """Name what limits count by: an IPv4 address, or the /64 network of an IPv6 address.

    `peer` is at the other end of the connection, None for a unix socket; `forwarded_for` are the
    lines of `X-Forwarded-For`, in order. Nothing that a client sends makes a difference, if each
    trusted proxy appends to them. What cannot be read counts as its sender's address.

    None is this machine itself, which is not limited by address: behind a proxy of the same machine
    that is not listed among the trusted ones all would share one.
    """
    found = _address(peer or "")
    hops = _hops(forwarded_for)
    while found is not None and found in proxies:
        hop = next(hops, None)
        said = _address(hop or "")
        if said is None:
            return _counted(found) or (UNREADABLE if hop is not None else None)
        found = said
    return _counted(found) if found is not None else None


def _hops(lines: Sequence[str]) -> Iterator[str]:
    """Yield the elements of a header, the last one first."""
    said = ",".join(lines)
    hops = said[-MAX_HEADER_CHARS:].split(",")
    if len(said) > MAX_HEADER_CHARS:
        del hops[0]  # cut in two, it may read as another address
    # Empty elements are none (RFC 9110, section 5.6.1).
    return (hop for hop in reversed(hops[-MAX_HOPS:]) if hop.strip(" \t"))


def _address(text: str) -> Address | None:
    text = text.strip(" \t")
    if with_port := _WITH_PORT.fullmatch(text):
        text = with_port[1] or with_port[2]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    # An IPv6 socket shows clients of IPv4 like that.
    return getattr(address, "ipv4_mapped", None) or address


def _counted(address: Address) -> str | None:
    if address.is_loopback:
        return None
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((int(address), COUNTED_BITS), strict=False))


def _network(entry: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(entry.strip())
    except ValueError as error:
        raise ValueError(f"{entry!r} is no address or network: {error}") from None
    if isinstance(network, IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((int(mapped), network.prefixlen - _MAPPED_BITS))
    return network
