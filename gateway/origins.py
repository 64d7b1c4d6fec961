"""Which web pages may talk to the gateway: one rule for CORS and for WebSocket handshakes."""

from collections.abc import Collection
from typing import NamedTuple

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from gateway.hosts import is_local, read_host

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
PREFLIGHT_LASTS_S = 600
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Origins:
    """The rule.

    While the gateway listens on loopback any page of this machine may; otherwise those listed.
    `*` lists all. A page that came from the gateway itself may always: its origin is the `Host` of
    its requests. That is safe only for requests that `Hosts` has let pass, for by DNS rebinding a
    foreign page has that in common with ours.
    """

    def __init__(self, listed: Collection[str], *, host: str) -> None:
        self.listed = frozenset(listed)
        self._pages = {page for origin in listed if (page := read_origin(origin)) is not None}
        self._local = is_local(host)

    def allow(self, origin: str, *, host: str | None = None) -> bool:
        """Whether a page may; `host` is the request's `Host`, which a page of ours shares.

        A page without an origin says `null`, which many do that have nothing else in common; it
        may if that is listed. One that says what is no origin may not.
        """
        if "*" in self.listed or origin in self.listed:
            return True
        page = read_origin(origin)
        if page is None:
            return False
        if page in self._pages or (host is not None and page.is_at(host)):
            return True
        return self._local and page.name in LOOPBACK


class _Page(NamedTuple):
    """Where a page came from (RFC 6454)."""

    scheme: str
    name: str
    port: int

    def is_at(self, host: str) -> bool:
        # By `http` or `https`: only a proxy in front of the gateway knows which.
        asked = read_host(host)
        if asked is None or asked.name != self.name:
            return False
        return self.port == (asked.port if asked.port is not None else _DEFAULT_PORTS[self.scheme])


def read_origin(origin: str) -> _Page | None:
    """Read what an `Origin` header says, or a setting like it; None if that is no origin."""
    scheme, _, rest = origin.partition("://")
    scheme = scheme.lower()
    place = read_host(rest)
    if scheme not in _DEFAULT_PORTS or place is None:
        return None
    port = place.port if place.port is not None else _DEFAULT_PORTS[scheme]
    return _Page(scheme, place.name, port)


class Cors(CORSMiddleware):
    """Starlette's, asking our rule; it never sees WebSockets."""

    def __init__(self, app: ASGIApp, *, origins: Origins) -> None:
        # A wildcard with credentials would let any page act as whoever opens it.
        super().__init__(
            app,
            allow_origins=("*",) if "*" in origins.listed else (),
            allow_methods=("GET", "POST", "DELETE", "HEAD", "OPTIONS"),
            allow_headers=("*",),
            allow_credentials="*" not in origins.listed,
            expose_headers=("Retry-After",),
            max_age=PREFLIGHT_LASTS_S,
        )
        self._origins = origins

    def is_allowed_origin(self, origin: str) -> bool:
        return self._origins.allow(origin)
