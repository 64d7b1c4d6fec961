"""What stands before every request: which pages may ask, who asks, and what a reply may do."""

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit, urlunsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.caller import Caller
from gateway.hosts import Hosts, host_of
from gateway.house import house_of
from gateway.limits.occupancy import Seat
from gateway.origins import Origins
from gateway.problems import forbidden, on_error
from protocol.errors import ErrorCode, Refusal

Endpoint = Callable[[Request, Caller], Awaitable[Response]]

PROBES = frozenset({"/api/health", "/livez", "/readyz", "/metrics"})
"""Asked by whoever watches over the process, by whatever name it has there."""

_HARMLESS = frozenset({"GET", "HEAD", "OPTIONS"})
_HEADERS = {
    # No reply is a page: whatever a browser takes it for, it loads and runs nothing.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def guarded(
    endpoint: Endpoint, *, by_ticket: bool = False
) -> Callable[[Request], Awaitable[Response]]:
    """Tell an endpoint who asks; nobody comes to it who is not known, or has no seat.

    The seat is kept until the reply has been sent, which a client can make last.
    With `by_ticket` a ticket in the query will do, for clients that can send no header.
    """

    async def enter(request: Request) -> Response:
        ticket = request.query_params.get("ticket") if by_ticket else None
        caller = await house_of(request).entrance.identify(request, ticket=ticket)
        if caller is None:
            raise Refusal(ErrorCode.UNAUTHORIZED)
        seat = house_of(request).entrance.sit(caller)
        try:
            reply = await endpoint(request, caller)
        except BaseException:
            seat.leave()
            raise
        return Seated(reply, seat)

    return enter


class Seated(Response):
    """A reply that is sent by somebody who has a seat, and leaves it then."""

    def __init__(self, reply: Response, seat: Seat) -> None:
        super().__init__()
        self._reply = reply
        self._seat = seat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the reply; however that ends, the seat is free."""
        with self._seat:
            await self._reply(scope, receive, send)


class Guard:
    """Turns requests away that a foreign page or a foreign name makes; marks every reply.

    A page of another origin cannot read what it gets, but without this it could have things done.
    """

    def __init__(self, app: ASGIApp, *, origins: Origins, hosts: Hosts) -> None:
        self._app = app
        self._origins = origins
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or answer it with 403."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = self._refused(scope)
        await (refused or self._app)(scope, receive, _marked(send))

    def _refused(self, scope: Scope) -> Response | None:
        if scope["path"] in PROBES:
            return None
        host, origins = host_of(scope["headers"]), Headers(scope=scope).getlist("origin")
        if len(origins) > 1:
            return forbidden("Origin: there should be one.")
        origin = origins[0] if origins else None
        changes = scope["method"] not in _HARMLESS
        # What changes something comes with an Origin, if it comes from a page (Fetch, section 3.2).
        may_be_a_page = origin is not None or not changes
        if may_be_a_page and not self._hosts.allow(host):
            return forbidden("Host: this name is not one of this gateway's; see ALLOWED_HOSTS.")
        if changes and origin is not None and not self._origins.allow(origin, host=host):
            return forbidden("Origin: pages from there may not use this gateway; see CORS_ORIGINS.")
        return None


async def on_mistake(request: Request, error: Exception) -> Response:
    """Answer what nobody foresaw: that is said outside of the gate, and so it is marked here."""
    response = await on_error(request, error)
    _mark(response.headers)
    return response


def _marked(send: Send) -> Send:
    async def mark(message: Message) -> None:
        if message["type"] == "http.response.start":
            _mark(MutableHeaders(scope=message))
        await send(message)

    return mark


def _mark(headers: MutableHeaders) -> None:
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)
    if "location" in headers:
        # Starlette's names the host, as the client did, and a scheme that only a proxy knows.
        headers["location"] = _path_of(headers["location"])


def _path_of(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(("", "", parts.path, parts.query, ""))
