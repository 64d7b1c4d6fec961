"""Which pages may read answers: the same rule as for WebSockets, for every route."""

from pathlib import Path

import pytest
from starlette.routing import Route

from gateway.origins import Origins
from gateway.routes import ROUTES
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
    public = {"host": "0.0.0.0", "cors_origins": listed, "allow_anonymous": True}
    settings = settings_for(tmp_path / "chat.db", model.url, **public)
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


# The rule

LISTED = ("https://chat.example.org", "http://Intranet:8080", "https://[2001:DB8::7]:443")
LOCALLY, PUBLICLY = Origins((), host="127.0.0.1"), Origins(LISTED, host="0.0.0.0")


@pytest.mark.parametrize(
    "origin",
    [
        *("https://chat.example.org", "https://chat.example.org:443", "HTTPS://Chat.Example.Org"),
        *("http://intranet:8080", "https://[2001:db8::7]", "https://[2001:db8:0::0:7]:443"),
    ],
)
def test_a_listed_origin_may_however_it_is_written(origin: str) -> None:
    assert PUBLICLY.allow(origin)


@pytest.mark.parametrize(
    "origin",
    [
        *(
            "http://chat.example.org",
            "https://chat.example.org:80",
            "https://chat.example.org:8443",
        ),
        *(
            "http://intranet",
            "http://intranet:80",
            "https://intranet:8080",
            "wss://chat.example.org",
        ),
        *("https://a.chat.example.org", "https://chat.example.org.evil.example"),
    ],
)
def test_an_origin_is_its_scheme_its_host_and_its_port(origin: str) -> None:
    assert not PUBLICLY.allow(origin)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://chat.example.com", "chat.example.com"),
        ("https://chat.example.com", "Chat.Example.com:443"),
        ("http://chat.example.com", "chat.example.com:80"),
        ("http://chat.example.com:80", "chat.example.com"),
        ("http://chat.example.com:8080", "chat.example.com:8080"),
        ("http://[2001:db8::9]:8080", "[2001:DB8:0::9]:8080"),
    ],
)
def test_a_page_of_ours_may_whichever_way_its_port_is_said(origin: str, host: str) -> None:
    for origins in (LOCALLY, PUBLICLY):
        assert origins.allow(origin, host=host)
        assert not origins.allow(origin)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://chat.example.com", "chat.example.com:443"),
        ("https://chat.example.com", "chat.example.com:80"),
        ("https://chat.example.com:8443", "chat.example.com"),
        ("https://chat.example.com", "example.com"),
        ("ftp://chat.example.com", "chat.example.com"),
        ("null", "null"),
        ("http://", ""),
        ("", ""),
        ("https://chat.example.com, https://evil.example", "chat.example.com"),
    ],
)
def test_a_page_of_another_port_or_host_is_not_ours(origin: str, host: str) -> None:
    assert not PUBLICLY.allow(origin, host=host)
    assert not LOCALLY.allow(origin, host=host)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_a_local_gateway_is_for_all_pages_of_this_machine(host: str) -> None:
    origins = Origins((), host=host)
    for name in ("localhost", "LOCALHOST", "127.0.0.1", "[::1]"):
        for origin in (f"http://{name}", f"https://{name}:5173"):
            assert origins.allow(origin)
            assert not PUBLICLY.allow(origin)


@pytest.mark.parametrize(
    "origin",
    [
        *("http://localhost/", "http://localhost/path", "http://localhost?q", "http://localhost#f"),
        *("http://user@localhost", "http://evil.example@localhost", "http://localhost:123456"),
        *("http://localhost:x", "http://localhost, http://localhost", "http://localhost null"),
        *("http://[::1", "http://::1", "http:localhost", "//localhost", "localhost", "http://", ""),
        *("http://localhost\n", " http://localhost", "http:///localhost", "http://localhost\x00"),
        *("file://localhost", "chrome-extension://localhost", "null", "NULL", "*"),
    ],
)
def test_what_is_no_origin_of_a_page_may_not(origin: str) -> None:
    assert not LOCALLY.allow(origin)


def test_no_origin_at_all_is_let_in_only_if_that_is_listed() -> None:
    assert Origins(("null",), host="0.0.0.0").allow("null")
    assert Origins(("*",), host="0.0.0.0").allow("null")
    assert not Origins(("null",), host="0.0.0.0").allow("https://evil.example")
