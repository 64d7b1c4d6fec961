"""Which web pages may talk to the gateway: one rule for CORS and for WebSocket handshakes."""

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
PREFLIGHT_LASTS_S = 600


class Origins:
    """The rule.

    While the gateway listens on loopback any page of this machine may; otherwise those listed.
    `*` lists all.
    """

    def __init__(self, listed: Collection[str], *, host: str) -> None:
        self.listed = frozenset(listed)
        self._local = host in LOOPBACK

    def allow(self, origin: str, *, host: str | None = None) -> bool:
        """Whether a page may; `host` is the request's `Host`, which a page of ours shares."""
        if "*" in self.listed or origin in self.listed:
            return True
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        if host is not None and parts.netloc == host:
            return True
        return self._local and parts.scheme in ("http", "https") and parts.hostname in LOOPBACK


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
