"""The outermost layer of HTTP: which trace a request is part of, what route and status it had."""

from collections.abc import Sequence

from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.house import House

NOWHERE = "none"
OTHER = "other"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Counted:
    """The outermost layer: whatever answers, here it is seen.

    A request is counted when its response begins, or fails before it does; one whose client went
    away before is not. A path is never a label, nor a method that somebody has made up.
    """

    def __init__(self, app: ASGIApp, *, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._paths = {route.endpoint: route.path for route in routes if isinstance(route, Route)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        house: House = scope["app"].state.house
        house.tracing.enter(scope["headers"])
        begun = False

        async def count(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                self._count(house, scope, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, count)
        except Exception:
            if not begun:
                self._count(house, scope, 500)
            raise

    def _count(self, house: House, scope: Scope, status: int) -> None:
        method = scope["method"] if scope["method"] in _METHODS else OTHER
        route = self._paths.get(scope["endpoint"], NOWHERE) if "endpoint" in scope else NOWHERE
        house.figures.requests[method, route, status] += 1
