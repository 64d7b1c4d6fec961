"""What stands before every request: by what name, from what page, and what a reply lets happen."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.routing import Route

from gateway.pages import PAGE_HEADERS
from gateway.routes import ROUTES
from tests.gateway.harness import WITHIN_S, Gateway, call_of
from tests.gateway.limited.visitors import ALICE, KEYS, Begin, denied, problem, streaming, visit
from tests.gateway.peers import Peer
from tests.llm.scripted import ScriptedModel
from tests.whole.processes import MODULE, running

ROOT = Path(__file__).parents[3]
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
EVIL = "https://evil.example"
KEPT = ("/docs", "/openapi.json", "/asyncapi.json", "/schema.json", "/types.ts")
"""What is the same for everybody until the gateway is another: kept, and asked for again."""
PROBES = ("/api/health", "/livez", "/readyz")
ENDPOINTS = sorted(
    (method, route.path.replace("{session_id}", "any"))
    for route in ROUTES
    if isinstance(route, Route)
    for method in route.methods or ()
)
GUARDED = [(method, path) for method, path in ENDPOINTS if path not in PROBES]


@pytest.fixture
async def gateway(limited: Begin) -> AsyncIterator[Gateway]:
    """A gateway on loopback, as it is by default."""
    async with limited() as gateway:
        yield gateway


@pytest.fixture
async def served(served_limited: Begin) -> AsyncIterator[Gateway]:
    """A gateway on a port of loopback, as it is by default."""
    async with served_limited() as gateway:
        yield gateway


# By what name

FOREIGN = [
    *("evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example"),
    *("192.168.0.7", "0.0.0.0", "[2001:db8::1]", "notlocalhost", "", "localhost@evil.example"),
]
LOCAL = ["127.0.0.1", "127.0.0.1:9999", "localhost", "LOCALHOST:80", "[::1]:8080", "a.localhost"]


async def test_a_gateway_of_this_machine_answers_to_no_foreign_name(served: Gateway) -> None:
    for host in FOREIGN:
        # By DNS rebinding a page has its own name mean this machine, and so its origin is ours.
        page = {"Host": host, "Origin": f"http://{host}"}
        for refused in (
            await served.http.post("/api/sessions", json={}, headers=page),
            await served.http.get("/api/sessions", headers=page),
            await served.http.get("/api/sessions", headers={"Host": host}),
        ):
            detail = problem(refused, 403, "forbidden")["detail"]
            assert detail == "Host: this name is not one of this gateway's; see ALLOWED_HOSTS."
        for handshake in (await denied(served, **page), await denied(served, Host=host)):
            assert (handshake.status_code, handshake.text) == (403, "Origin or Host not allowed")
            assert handshake.headers["content-type"].startswith("text/plain")
    assert served.rows("SELECT * FROM sessions") == []


async def test_no_endpoint_answers_a_page_to_a_foreign_name(gateway: Gateway) -> None:
    page = {"Host": "evil.example", "Origin": "http://evil.example"}
    for method, path in GUARDED:
        answer = await gateway.http.request(method, path, headers=page)
        assert answer.status_code == 403, (method, path)


async def test_who_changes_something_and_is_no_page_may_call_it_what_they_like(
    gateway: Gateway,
) -> None:
    made = await gateway.http.post("/api/sessions", json={}, headers={"Host": "gateway"})
    assert made.status_code == 201


async def test_a_gateway_of_this_machine_answers_to_its_names(served: Gateway) -> None:
    for host in LOCAL:
        found = await served.http.get("/", headers={"Host": host})
        assert found.status_code == 200, host
        async with served.tab(headers={"Host": host}) as tab:
            assert tab.ready["type"] == "ready"


@pytest.mark.parametrize("path", PROBES)
async def test_whoever_watches_over_it_may_call_it_what_they_like(
    gateway: Gateway, path: str
) -> None:
    for host in FOREIGN:
        assert (await gateway.http.get(path, headers={"Host": host})).status_code == 200


@pytest.mark.parametrize("lines", [b"", b"Host: localhost\r\nHost: evil.example\r\n"])
async def test_a_request_has_one_name_for_it_and_not_none_or_two(
    served: Gateway, lines: bytes
) -> None:
    async with Peer(str(served.http.base_url)) as peer:
        await peer.send(b"GET /openapi.json HTTP/1.1\r\n" + lines + b"\r\n")
        status = await peer.until(b"\r\n")
        assert b" 403 " in status or b" 400 " in status


async def test_names_that_are_listed_are_answered_to_beside_those_of_this_machine(
    served_limited: Begin,
) -> None:
    listed = "chat.example.org, *.b.example"
    async with served_limited(allowed_hosts=listed) as gateway:
        for host in ("chat.example.org", "Chat.Example.Org:8443", "a.b.example", *LOCAL):
            async with gateway.tab(headers={"Host": host}):
                found = await gateway.http.get("/", headers={"Host": host})
                assert found.status_code == 200
        for host in ("example.org", "a.chat.example.org", "b.example", "ab.example"):
            assert (await gateway.http.get("/", headers={"Host": host})).status_code == 403
            assert (await denied(gateway, Host=host)).status_code == 403


async def test_a_public_gateway_answers_to_any_name_unless_some_are_listed(
    limited: Begin,
) -> None:
    public = {"host": "0.0.0.0", "api_keys": KEYS}
    async with limited(**public) as gateway:
        assert (await gateway.http.get("/", headers={"Host": "any.example"})).status_code == 200
    async with limited(allowed_hosts="chat.example.org", **public) as gateway:
        for host, status in (("chat.example.org", 200), ("any.example", 403), ("localhost", 403)):
            found = await gateway.http.get("/", headers={"Host": host})
            assert found.status_code == status


# From what page


@pytest.mark.parametrize(
    "origin", [EVIL, "null", "http://localhost.evil.example", "https://127.0.0.1.evil.example"]
)
async def test_a_foreign_page_can_have_nothing_done(
    served: Gateway, model: ScriptedModel, origin: str
) -> None:
    session_id = await served.new_session()
    headers = {"Origin": origin, "Content-Type": "text/plain"}
    for method, path in (
        ("POST", "/api/sessions"),
        ("POST", "/api/chat"),
        ("POST", "/api/chat/stream"),
        ("POST", f"/api/sessions/{session_id}/cancel"),
        ("DELETE", f"/api/sessions/{session_id}"),
        ("POST", "/api/tickets"),
    ):
        body = f'{{"session_id": "{session_id}", "message": "안녕"}}'
        refused = await served.http.request(method, path, headers=headers, content=body)
        assert problem(refused, 403, "forbidden")["detail"].startswith("Origin: ")
        assert "CORS_ORIGINS" in refused.json()["detail"]
        assert "access-control-allow-origin" not in refused.headers
    handshake = await denied(served, Origin=origin)
    assert (handshake.status_code, handshake.text) == (403, "Origin or Host not allowed")
    assert handshake.headers["content-type"].startswith("text/plain")
    assert served.rows("SELECT session_id FROM sessions") == [(session_id,)]
    assert (await served.messages(session_id))["messages"] == []


async def test_a_foreign_page_can_read_nothing(gateway: Gateway) -> None:
    for method, path in ENDPOINTS:
        for origin in (EVIL, "null"):
            answer = await gateway.http.request(method, path, headers={"Origin": origin})
            assert "access-control-allow-origin" not in answer.headers, (method, path)


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("chat.example.org", "https://chat.example.org"),
        ("chat.example.org", "http://chat.example.org"),
        ("chat.example.org:8443", "https://chat.example.org:8443"),
    ],
)
async def test_a_page_of_the_gateways_own_name_may_do_everything(
    served_limited: Begin, model: ScriptedModel, host: str, origin: str
) -> None:
    headers = {"Host": host, "Origin": origin}
    async with served_limited(allowed_hosts="chat.example.org") as gateway:
        made = await gateway.http.post("/api/sessions", json={}, headers=headers)
        assert made.status_code == 201
        path = f"/api/sessions/{made.json()['session_id']}"
        assert (await gateway.http.delete(path, headers=headers)).status_code == 204
        assert (await denied(gateway, Host=host, Origin=EVIL)).status_code == 403
        async with gateway.tab(headers=headers) as tab:
            assert tab.ready["type"] == "ready"


async def test_a_page_that_is_listed_may_and_one_of_this_machine_may_by_default(
    served_limited: Begin,
) -> None:
    async with served_limited(cors_origins="https://chat.example.org") as gateway:
        for origin in ("https://chat.example.org", "http://localhost:5173"):
            headers = {"Origin": origin}
            made = await gateway.http.post("/api/sessions", json={}, headers=headers)
            assert made.status_code == 201
            assert made.headers["access-control-allow-origin"] == origin
            async with gateway.tab(headers=headers):
                pass


async def test_who_is_no_page_need_not_say_where_it_comes_from(gateway: Gateway) -> None:
    assert (await gateway.http.post("/api/sessions", json={})).status_code == 201


# What a reply lets happen


NOTHING = "default-src 'none'; frame-ancestors 'none'"
PAGE = PAGE_HEADERS["Content-Security-Policy"]


def check_marks(response: httpx.Response, cache: str = "no-store", policy: str = NOTHING) -> None:
    """See that a browser would do nothing with a reply but hand it to who asked for it."""
    headers = response.headers
    assert headers["content-security-policy"] == policy
    assert "unsafe-inline" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers.get_list("cache-control") == [cache]


async def test_every_reply_of_every_endpoint_is_marked(gateway: Gateway) -> None:
    for method, path in ENDPOINTS:
        preflight = {"Origin": "http://localhost", "Access-Control-Request-Method": method}
        for response in (
            await gateway.http.request(method, path),
            await gateway.http.request(method, path, headers={"Origin": EVIL}),
            await gateway.http.request(method, path, headers={"Host": "evil.example"}),
            await gateway.http.options(path, headers=preflight),
            await gateway.http.options(path, headers=preflight | {"Origin": EVIL}),
            await gateway.http.request("PATCH", path),
        ):
            given = path in KEPT and response.request.method in ("GET", "HEAD")
            kept = given and response.status_code == 200
            page = kept and path == "/docs"
            cache, policy = "no-cache" if kept else "no-store", PAGE if page else NOTHING
            check_marks(response, cache=cache, policy=policy)


async def test_what_is_refused_is_marked_too(served_limited: Begin) -> None:
    limits = {"max_body_bytes": 4_096, "messages_per_minute": 1, "max_connections": 1}
    async with (
        served_limited(api_keys=KEYS, **limits) as gateway,
        visit(gateway, key=ALICE) as alice,
    ):
        ask = {"session_id": "any", "message": "안녕"}
        found = [
            (await alice.http.get("/nowhere"), 404),
            (await gateway.http.get("/ws"), 404),
            (await gateway.http.post("/api/sessions", json={}), 401),
            (await alice.http.post("/api/sessions", json=[]), 422),
            (await alice.http.post("/api/sessions", content="{"), 422),
            (await alice.http.post("/api/sessions", content="x" * 4_097), 413),
            (await alice.http.post("/api/chat", json=ask), 404),
            (await alice.http.post("/api/chat", json=ask), 429),
        ]
        async with alice.tab():
            found.append((await alice.http.post("/api/chat", json=ask), 503))
        for response, status in found:
            assert response.status_code == status
            check_marks(response)


async def test_a_mistake_of_ours_is_marked_too(
    served: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(served.house.turns, "accept", fail)
    answer = await served.http.post("/api/chat", json={"session_id": "any", "message": "안녕"})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "unforeseen" not in answer.text
    check_marks(answer)


async def test_what_is_no_mistake_is_marked_and_a_stream_says_itself_how_it_is_kept(
    served: Gateway, model: ScriptedModel
) -> None:
    session_id = await served.new_session()
    path = f"/api/sessions/{session_id}"
    for response in (
        await served.http.get(path),
        await served.http.get(f"{path}/messages"),
        await served.http.get("/"),
    ):
        assert response.status_code == 200
        check_marks(response)
    kept = "no-cache, no-transform"
    check_marks(await served.http.head(f"{path}/events"), cache=kept)
    async with served.sse("GET", f"{path}/events") as events:
        check_marks(events.response, cache=kept)
    async with streaming(served) as stream:
        check_marks(stream.response, cache=kept)
        await (await call_of(model)).complete()
        await stream.all()
    check_marks(await served.http.delete(path))


# A gateway that would let everybody in


def ended(directory: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a gateway that ends by itself."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **settings}
    return subprocess.run(
        [sys.executable, "-m", "gateway"],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_gateway_that_all_could_reach_and_use_does_not_start_unless_that_is_meant(
    tmp_path: Path, host: str
) -> None:
    refused = ended(tmp_path, HOST=host, PORT="0")
    assert (refused.returncode, refused.stdout) == (2, "")
    [line] = refused.stderr.splitlines()
    assert line.startswith(f"midm-gateway: HOST: {host} can be reached from other machines")
    for name in ("API_KEYS", "JWT", "ALLOW_ANONYMOUS=true"):
        assert name in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "status"), [({"ALLOW_ANONYMOUS": "true"}, 201), ({"API_KEYS": KEYS}, 401)]
)
async def test_a_gateway_that_all_can_reach_starts_if_that_is_meant_or_it_asks_who_they_are(
    tmp_path: Path, settings: dict[str, str], status: int
) -> None:
    public = {"HOST": "0.0.0.0", "PORT": "0", "PYTHONPATH": str(ROOT), **settings}
    async with running(*MODULE, directory=tmp_path, **public) as program:
        url = (await program.listens()).replace("0.0.0.0", "127.0.0.1")
        async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
            assert (await http.post("/api/sessions", json={})).status_code == status
        assert await program.stop() == 0
        assert program.complaints == []


async def test_who_says_twice_where_it_comes_from_is_refused(served: Gateway) -> None:
    ours = f"http://127.0.0.1:{served.http.base_url.port}"
    twice = [("Origin", ours), ("Origin", EVIL)]
    assert (await served.http.post("/api/sessions", headers=twice)).status_code == 403
    async with Peer(str(served.http.base_url)) as peer:
        place = f"Host: {peer.host}:{peer.port}\r\n"
        said = "".join(f"{name}: {value}\r\n" for name, value in twice)
        await peer.send(f"GET /ws HTTP/1.1\r\n{place}{said}{UPGRADE}\r\n".encode())
        assert (await peer.until(b"\r\n")).startswith(b"HTTP/1.1 4")


async def test_a_way_that_is_shown_names_no_host_and_no_scheme(gateway: Gateway) -> None:
    shown = await gateway.http.post("/api/chat/?x=1", headers={"Host": "evil.example"})
    assert (shown.status_code, shown.headers["location"]) == (307, "/api/chat?x=1")


def test_a_name_that_means_more_than_this_machine_is_found_out(tmp_path: Path) -> None:
    starts = """
import socket, sys
real = socket.getaddrinfo
socket.getaddrinfo = lambda host, *rest, **more: real("0.0.0.0", *rest, **more)
from gateway.__main__ import main
sys.exit(main([]))
"""
    settings = {"HOST": "evil.localhost", "PORT": "0", "LLM_SERVER_URL": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", starts],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), **settings},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "midm-gateway: evil.localhost is not this machine alone; name its address as HOST\n"
    )
