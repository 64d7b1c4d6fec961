"""What anybody may ask."""

from starlette.routing import Route, WebSocketRoute

from gateway.routes import ROUTES
from gateway.websocket import PATH
from tests.gateway.harness import Gateway


def _calls(told: object) -> set[str]:
    if isinstance(told, dict):
        return {call for value in told.values() for call in _calls(value)}
    return {str(told)}


async def test_the_index_tells_of_every_call(gateway: Gateway) -> None:
    told = (await gateway.http.get("/")).json()
    there = {
        f"{method} {route.path_format}"
        for route in ROUTES
        if isinstance(route, Route | WebSocketRoute)
        for method in (getattr(route, "methods", None) or {"GET"}) - {"HEAD"}
    }
    assert _calls(told["endpoints"]) == there - {"GET /"}
    assert f"GET {PATH}" in there
