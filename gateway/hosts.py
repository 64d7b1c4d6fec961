"""Which names the gateway answers to: the defence against DNS rebinding.

A page of evil.example may have its name changed to mean 127.0.0.1 once it is loaded. To the browser
whatever answers there is then the page's own origin, and only `Host` tells that it is not.
"""

import re
from collections.abc import Collection, Iterable
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

_HOST = re.compile(
    r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::([0-9]{0,5}))?"
)  # RFC 9110, section 7.2
_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_MAX_PORT = 65_535


class Host(NamedTuple):
    """What `Host` says: a name in lower case or an address, and a port if there is one."""

    name: str
    port: int | None


class Hosts:
    """The rule.

    While the gateway listens on loopback it is asked for by the names of this machine, and those
    listed; otherwise by those listed, or by any if none is. An entry is a name or an address
    without a port, `*.example.org` for all below example.org, or `*` for all there are. Raises
    `ValueError`, which names the entry, if one is none of these.
    """

    def __init__(self, listed: Collection[str], *, host: str) -> None:
        self._local = is_local(host)
        self._any = "*" in listed or not (listed or self._local)
        self._names = frozenset(
            _listed(entry) for entry in listed if entry != "*" and not entry.startswith("*.")
        )
        self._below = tuple(f".{_listed(entry[2:])}" for entry in listed if entry.startswith("*."))

    def allow(self, host: str | None) -> bool:
        """Whether a request is answered; `host` is its `Host`, None if it has none, or several.

        The port makes no difference.
        """
        if self._any:
            return True
        asked = read_host(host) if host is not None else None
        return asked is not None and self._knows(asked.name)

    def _knows(self, name: str) -> bool:
        return name in self._names or name.endswith(self._below) or (self._local and is_local(name))


def host_of(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Find a request's `Host` among its headers, whose names are in lower case.

    None if there is none, or more than one: who reads the first and who reads the last would not
    mean the same (RFC 9112, section 3.2).
    """
    found = [value for name, value in headers if name == b"host"]
    return found[0].decode("latin-1") if len(found) == 1 else None


def read_host(text: str) -> Host | None:
    """Read what a `Host` header says, or the part of an origin that is like it.

    A dot at the end is left out, addresses are written in one way. None if it is malformed.
    """
    if not (parts := _HOST.fullmatch(text)):
        return None
    name = _name(parts[1])
    port = int(parts[2]) if parts[2] else None
    if name is None or (port is not None and port > _MAX_PORT):
        return None
    return Host(name, port)


def is_local(name: str) -> bool:
    """Whether a name, or an address without brackets, always means this machine (RFC 6761)."""
    if f".{name.lower()}".endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _listed(entry: str) -> str:
    name = _name(f"[{entry}]" if ":" in entry and "[" not in entry else entry)
    if name is None:
        raise ValueError(f"{entry!r} is no host name such as chat.example.org, and no address")
    return name


def _name(text: str) -> str | None:
    """Read a name or an address; that of IPv6 is in brackets."""
    if text.startswith("[") and text.endswith("]"):
        try:
            return str(IPv6Address(text[1:-1]))
        except ValueError:
            return None
    name = text.lower().removesuffix(".")
    return name if _NAME.fullmatch(name) else None
