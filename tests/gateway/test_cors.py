"""Which pages may read answers: the same rule as for WebSockets, for every route."""

from pathlib import Path

import pytest
from starlette.routing import Route

from gateway.app import ROUTES
from tests.gateway.harness import Gateway, in_process, settings_for
from tests.llm.scripted import ScriptedModel

REST = sorted({route.path for route in ROUTES if isinstance(route, Route)})
LOCAL = "http://localhost:5173"
FOREIGN = "https://evil.example"


def preflight(origin: str, method: str = "GET") -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        # The original's web client sends it with every GET, so browsers ask first everywhere.
        "Access-Control-Request-Headers": "content-type",
    }


@pytest.mark.parametrize("path", REST)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_preflights_of_local_pages_are_allowed_on_every_route(
    gateway: Gateway, path: str, method: str
) -> None:
    url = path.replace("{session_id}", "any")
    answer = await gateway.http.options(url, headers=preflight(LOCAL, method))
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == LOCAL
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert "content-type" in answer.headers["access-control-allow-headers"].lower()
    assert method in answer.headers["access-control-allow-methods"]
    assert "Origin" in answer.headers["vary"]


@pytest.mark.parametrize("path", REST)
async def test_preflights_of_foreign_pages_are_refused_on_every_route(
    gateway: Gateway, path: str
) -> None:
    url = path.replace("{session_id}", "any")
    answer = await gateway.http.options(url, headers=preflight(FOREIGN))
    assert answer.status_code == 400
    assert "access-control-allow-origin" not in answer.headers


async def test_answers_say_who_may_read_them(gateway: Gateway) -> None:
    for origin, allowed in [(LOCAL, LOCAL), (FOREIGN, None)]:
        answer = await gateway.http.get("/api/sessions/nobody", headers={"Origin": origin})
        assert answer.status_code == 404
        assert answer.headers.get("access-control-allow-origin") == allowed


async def test_the_wait_before_a_retry_can_be_read_by_pages(gateway: Gateway) -> None:
    answer = await gateway.http.get("/api/health", headers={"Origin": LOCAL})
    assert answer.headers["access-control-expose-headers"] == "Retry-After"


async def test_listed_origins_may_wherever_the_gateway_listens(
    tmp_path: Path, model: ScriptedModel
) -> None:
    listed = "https://chat.example.org, https://other.example.org/"
    settings = settings_for(tmp_path / "chat.db", model.url, host="0.0.0.0", cors_origins=listed)
    async with in_process(settings) as gateway:
        for origin in ("https://chat.example.org", "https://other.example.org"):
            answer = await gateway.http.options("/api/health", headers=preflight(origin))
            assert answer.headers["access-control-allow-origin"] == origin
        for origin in (LOCAL, "https://chat.example.org.evil.example", "null"):
            answer = await gateway.http.options("/api/health", headers=preflight(origin))
            assert answer.status_code == 400


async def test_a_wildcard_lets_everybody_read_but_nobody_act_as_somebody(
    tmp_path: Path, model: ScriptedModel
) -> None:
    settings = settings_for(tmp_path / "chat.db", model.url, cors_origins="*")
    async with in_process(settings) as gateway:
        for answer in (
            await gateway.http.options("/api/chat", headers=preflight(FOREIGN, "POST")),
            await gateway.http.get(
                "/api/health", headers={"Origin": FOREIGN, "Cookie": "session=1"}
            ),
        ):
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in answer.headers
        async with gateway.tab(headers={"Origin": FOREIGN}) as tab:
            assert tab.ready["type"] == "ready"
