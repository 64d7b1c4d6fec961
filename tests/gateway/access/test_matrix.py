"""Every operation, by everybody: its owner, other users, and those who are nobody.

A new route, method or frame without a row in here fails the first two tests.
"""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import httpx
import pytest
from starlette.routing import Route, WebSocketRoute

from gateway.auth import opening
from gateway.routes import ROUTES
from gateway.settings import Settings
from protocol.client_frames import ClientFrame
from tests.gateway.access.people import (
    ALICE,
    ALICE_BY_KEY,
    ALICE_BY_TOKEN,
    ALICES,
    BOB_BY_KEY,
    BOB_BY_TOKEN,
    CAROL_BY_KEY,
    CAROLS,
    NOBODY,
    NOT_FOUND,
    REFUSED,
    UNAUTHORIZED,
    Person,
    access_settings,
    new_session,
    outcome,
    refusals,
    revoke,
    stored,
    visit,
)
from tests.gateway.auth.signing import SECRET
from tests.gateway.harness import Gateway, Json, Sse, on_sockets

QUICK = "안녕 #sim pieces=3 interval_ms=0 first_token_ms=0#"
SILENT = "안녕 #sim stall_at=0#"
ASKS = {"message": QUICK}
State = Literal["ended", "open"]


@dataclass(frozen=True)
class Call:
    """A REST call, of a session whose newest turn has ended or is still open."""

    method: str
    path: str
    status: int
    body: Json | None = None
    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    state: State = "ended"
    first: str | None = None
    """The type of the first event, where the answer is a stream."""

    @property
    def of_session(self) -> bool:
        """Whether it is about a session that is there."""
        return "{session_id}" in self.path or "/chat" in self.path

    def request(self, gateway: Gateway, session_id: str, person: Person) -> httpx.Request:
        """Write it down."""
        body = None if self.body is None else {"session_id": session_id, **self.body}
        return gateway.http.build_request(
            self.method,
            self.path.format(session_id=session_id) + self.query,
            headers={**dict(self.headers), **person.headers},
            json=body,
        )


@dataclass(frozen=True)
class Visit:
    """A WebSocket of a session, a frame that is sent there, and the answer to wait for."""

    frame: Json | None = None
    answer: str | None = None
    after: str | None = None
    state: State = "ended"

    def sent(self, person: Person) -> Json | None:
        """Fill in whose token it is."""
        if self.frame is None or self.frame["type"] != "auth":
            return self.frame
        return {**self.frame, "token": person.token}

    def query(self, session_id: str) -> dict[str, str]:
        return {"session_id": session_id} | ({"after": self.after} if self.after else {})


ONE = "/api/sessions/{session_id}"

ASKED: dict[str, Call] = {
    "list sessions": Call("GET", "/api/sessions", 200),
    "create a session": Call("POST", "/api/sessions", 201, {"metadata": {"a": 1}}),
    "get a ticket": Call("POST", "/api/tickets", 201),
    "look at it": Call("GET", ONE, 200),
    "delete it": Call("DELETE", ONE, 204),
    "delete it while it is answered": Call("DELETE", ONE, 204, state="open"),
    "read the history": Call("GET", f"{ONE}/messages", 200),
    "read a page": Call("GET", f"{ONE}/messages", 200, query="?limit=1&include=replaced"),
    "search": Call("GET", f"{ONE}/messages", 200, query=f"?q={QUICK[:2]}"),
    "search all": Call("GET", f"{ONE}/messages", 200, query="?q=no&limit=1&include=replaced"),
    "export": Call("GET", f"{ONE}/export", 200),
    "export an open turn": Call(
        "GET", f"{ONE}/export", 200, query="?format=markdown", state="open"
    ),
    "cancel": Call("POST", f"{ONE}/cancel", 202, {}, state="open"),
    "cancel a turn": Call("POST", f"{ONE}/cancel", 202, {"turn": 2}, state="open"),
    "cancel nothing": Call("POST", f"{ONE}/cancel", 409, {}),
    "chat": Call("POST", "/api/chat", 200, ASKS),
    "chat again": Call("POST", "/api/chat", 200, {**ASKS, "request_id": "r1"}),
    "edit": Call("POST", "/api/chat", 200, {**ASKS, "replaces": 1}),
    "chat while it is answered": Call("POST", "/api/chat", 409, ASKS, state="open"),
    "chat and stream": Call("POST", "/api/chat/stream", 200, ASKS, first="start"),
    "stream again": Call(
        "POST", "/api/chat/stream", 200, {**ASKS, "request_id": "r1"}, first="start"
    ),
    "follow": Call("GET", f"{ONE}/events", 200, first="ready"),
    "follow an open turn": Call("GET", f"{ONE}/events", 200, state="open", first="ready"),
    "follow from a cursor": Call("GET", f"{ONE}/events", 200, query="?after=1.1.0", first="ready"),
    "follow on": Call(
        "GET", f"{ONE}/events", 200, headers=(("Last-Event-ID", "1.1.1"),), first="ready"
    ),
}
CALLS = ASKED | {
    f"{name}, its head": replace(call, method="HEAD", first=None)
    for name, call in ASKED.items()
    if call.method == "GET"
}
OF_SESSION = {name: call for name, call in CALLS.items() if call.of_session}

NEW: dict[str, Visit] = {"open": Visit()}
VISITS: dict[str, Visit] = {
    "join": Visit(),
    "join an open turn": Visit(state="open"),
    "resume": Visit(after="1.1.1"),
    "chat": Visit({"type": "chat", **ASKS}, "complete"),
    "chat again": Visit({"type": "chat", **ASKS, "request_id": "r1"}, "accepted"),
    "edit": Visit({"type": "chat", **ASKS, "replaces": 1}, "complete"),
    "regenerate": Visit({"type": "regenerate", "turn": 1}, "complete"),
    "cancel": Visit({"type": "cancel"}, "complete", state="open"),
    "read the history": Visit({"type": "history", "limit": 1}, "history"),
    "renew": Visit({"type": "auth"}),
    "ping": Visit({"type": "ping"}, "pong"),
    "get help": Visit({"type": "help"}, "help"),
}

PUBLIC = (
    *("/", "/docs", "/web/{path:path}", "/api/health", "/livez", "/readyz", "/metrics"),
    *("/openapi.json", "/asyncapi.json", "/schema.json", "/types.ts"),
)

OWNERS = (ALICE_BY_KEY, ALICE_BY_TOKEN)
FOREIGN = (
    (ALICE_BY_KEY, BOB_BY_KEY),
    (ALICE_BY_KEY, ALICE_BY_TOKEN),  # called the same, by somebody else
    (ALICE_BY_TOKEN, ALICE_BY_KEY),
    (ALICE_BY_TOKEN, BOB_BY_TOKEN),
)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """For all tests in here, as there is one gateway for all of them."""
    return "asyncio"


@pytest.fixture(scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """A gateway on a port, with a simulated model, where Carol's key was taken back."""
    directory = tmp_path_factory.mktemp("matrix")
    file = directory / "keys"
    file.write_text(CAROLS.line)
    unlimited: Json = dict.fromkeys(
        ("messages_per_minute", "sessions_per_minute", "max_open_turns", "max_queued_turns"), 0
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in Settings.model_fields:
            patch.delenv(name.upper(), raising=False)
        patch.setattr(opening, "KEYS_EVERY_S", 0.005)
        settings = access_settings(directory, api_keys_file=file, **unlimited)
        async with on_sockets(settings) as gateway:
            await revoke(gateway, CAROL_BY_KEY, file)
            yield gateway


async def conversation(gateway: Gateway, owner: Person, state: State) -> str:
    """Begin a session with a turn that has ended, and perhaps one that is open."""
    session_id = await new_session(gateway, owner)
    asks = {"session_id": session_id, "message": QUICK, "request_id": "r1"}
    asked = await gateway.http.post("/api/chat", json=asks, headers=owner.headers)
    assert asked.status_code == 200, asked.text
    if state == "open":
        asks = {"session_id": session_id, "message": SILENT}
        async with gateway.sse(
            "POST", "/api/chat/stream", json=asks, headers=owner.headers
        ) as stream:
            await stream.next("start")
    return session_id


@pytest.fixture(scope="module")
async def kept(gateway: Gateway) -> dict[tuple[Person, State], str]:
    """Sessions that nobody but their owners should be able to do anything about."""
    states: tuple[State, ...] = get_args(State)
    return {
        (owner, state): await conversation(gateway, owner, state)
        for owner in OWNERS
        for state in states
    }


@dataclass(frozen=True)
class Answer:
    """All that a reply says, but for the time."""

    status: int
    headers: dict[str, str]
    body: bytes


async def refusal(gateway: Gateway, request: httpx.Request) -> Answer:
    """Ask for what is refused; return how."""
    response = await gateway.http.send(request, stream=True)
    async with aclosing(response):
        assert response.status_code >= 400  # or it may have no end
        headers = {name: value for name, value in response.headers.items() if name != "date"}
        return Answer(response.status_code, headers, await response.aread())


def people(*listed: Person) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("person", listed, ids=str)


def pairs(*listed: tuple[Person, Person]) -> pytest.MarkDecorator:
    ids = [f"{owner}'s, {other} asks" for owner, other in listed]
    return pytest.mark.parametrize(("owner", "other"), listed, ids=ids)


# That nothing is left out


def test_every_route_has_a_row() -> None:
    served = {
        (method, route.path)
        for route in ROUTES
        if isinstance(route, Route)
        for method in route.methods or ()
    }
    public = {(method, path) for path in PUBLIC for method in ("GET", "HEAD")}
    assert served == {(call.method, call.path) for call in CALLS.values()} | public
    [other] = [route for route in ROUTES if not isinstance(route, Route)]
    assert isinstance(other, WebSocketRoute)
    assert other.path == "/ws"


def test_every_frame_of_a_client_has_a_row() -> None:
    kinds = {model.model_fields["type"].default for model in get_args(ClientFrame)}
    named = {get_args(model.model_fields["type"].annotation)[0] for model in get_args(ClientFrame)}
    assert kinds == named
    assert kinds == {visit.frame["type"] for visit in VISITS.values() if visit.frame}


# Its owner


@people(*OWNERS)
@pytest.mark.parametrize("name", CALLS)
async def test_its_owner_may(gateway: Gateway, name: str, person: Person) -> None:
    call = CALLS[name]
    session_id = await conversation(gateway, person, call.state)
    response = await gateway.http.send(call.request(gateway, session_id, person), stream=True)
    async with aclosing(response):
        assert response.status_code == call.status, await response.aread()
        if call.first is None:
            assert await response.aread() or call.method == "HEAD" or call.status == 204
        else:
            assert (await Sse(response).next(call.first))["type"] == call.first


@people(*OWNERS)
@pytest.mark.parametrize("name", VISITS)
async def test_its_owner_may_on_a_websocket(gateway: Gateway, name: str, person: Person) -> None:
    visited = VISITS[name]
    session_id = await conversation(gateway, person, visited.state)
    async with gateway.tab(session_id, visited.after, headers=person.headers) as tab:
        assert tab.ready["created"] is False
        assert tab.ready["resumed"] is (visited.after is not None)
        if frame := visited.sent(person):
            await tab.send(**frame)
        if visited.answer:
            await tab.next(visited.answer)
        assert "error" not in [frame["type"] for frame in await tab.settle()]


@people(*OWNERS)
async def test_who_opens_a_websocket_owns_its_session(gateway: Gateway, person: Person) -> None:
    async with gateway.tab(headers=person.headers) as tab:
        assert tab.ready["created"] is True
    found = await gateway.http.get(f"/api/sessions/{tab.session_id}", headers=person.headers)
    assert found.status_code == 200
    for other in {ALICE_BY_KEY, ALICE_BY_TOKEN, BOB_BY_KEY} - {person}:
        assert await outcome(gateway, other, session_id=tab.session_id) == NOT_FOUND


# Another user


@pytest.mark.parametrize("name", OF_SESSION)
async def test_to_another_user_it_is_not_there(
    gateway: Gateway, kept: dict[tuple[Person, State], str], name: str
) -> None:
    call = OF_SESSION[name]
    before = await stored(gateway)
    for owner, other in FOREIGN:
        foreign = await refusal(gateway, call.request(gateway, kept[owner, call.state], other))
        missing = await refusal(gateway, call.request(gateway, NOBODY, other))
        assert (other, foreign) == (other, missing)
        assert foreign.status == 404
        assert not foreign.body or json.loads(foreign.body)["code"] == "session_not_found"
        assert bool(foreign.body) == (call.method != "HEAD")
    assert await stored(gateway) == before


@pytest.mark.parametrize("name", VISITS)
async def test_to_another_user_it_is_not_there_on_a_websocket(
    gateway: Gateway, kept: dict[tuple[Person, State], str], name: str
) -> None:
    visited = VISITS[name]
    before = await stored(gateway)
    for owner, other in FOREIGN:
        frame = visited.sent(other)
        foreign = await visit(gateway, other, frame, **visited.query(kept[owner, visited.state]))
        missing = await visit(gateway, other, frame, **visited.query(NOBODY))
        assert (other, foreign) == (other, missing)
        assert (refusals(foreign[0]), foreign[1]) == NOT_FOUND
    assert await stored(gateway) == before


@pairs(*FOREIGN)
async def test_a_frame_or_a_body_leads_nobody_to_another_session(
    gateway: Gateway, kept: dict[tuple[Person, State], str], owner: Person, other: Person
) -> None:
    session_id = kept[owner, "open"]

    def hers() -> list[list[tuple[Any, ...]]]:
        tables = ("sessions", "messages", "turns", "owners", "leases")
        return [gateway.rows(f"SELECT * FROM {t} WHERE session_id = ?", session_id) for t in tables]

    before = hers()
    [(message_id,)] = gateway.rows(
        "SELECT message_id FROM messages WHERE session_id = ? AND role = 'assistant'", session_id
    )
    async with gateway.tab(headers=other.headers) as tab:
        for visited in VISITS.values():
            if frame := visited.sent(other):
                await tab.send(**{**frame, "session_id": session_id})
        frames = await tab.settle()
        foreign = await tab.refused(type="history", before=message_id)
        missing = await tab.refused(type="history", before=NOBODY)
    assert foreign == missing
    assert foreign["code"] == "message_not_found"
    assert session_id not in json.dumps(frames)
    assert hers() == before


@pairs(*FOREIGN)
async def test_a_list_shows_and_continues_ones_own_sessions_alone(
    gateway: Gateway, kept: dict[tuple[Person, State], str], owner: Person, other: Person
) -> None:
    own = await new_session(gateway, other)
    listed = await gateway.http.get("/api/sessions?limit=1000", headers=other.headers)
    ids = [each["session_id"] for each in listed.json()["sessions"]]
    assert own in ids
    assert not {kept[owner, "ended"], kept[owner, "open"]} & set(ids)
    foreign, missing = [
        await gateway.http.get(f"/api/sessions?before={before}", headers=other.headers)
        for before in (kept[owner, "ended"], NOBODY)
    ]
    assert (foreign.status_code, foreign.json()) == (404, missing.json())


# Nobody


@pytest.mark.parametrize("name", CALLS)
async def test_nobody_gets_in(
    gateway: Gateway, kept: dict[tuple[Person, State], str], name: str
) -> None:
    call = CALLS[name]
    before = await stored(gateway)
    for person in REFUSED:
        there = await refusal(
            gateway, call.request(gateway, kept[ALICE_BY_KEY, call.state], person)
        )
        missing = await refusal(gateway, call.request(gateway, NOBODY, person))
        assert (person, there) == (person, missing)
        assert (person, there.status) == (person, 401)
        assert there.headers["www-authenticate"] == "Bearer"
        assert there.headers["content-type"] == "application/problem+json"
        assert not there.body or json.loads(there.body)["code"] == "unauthorized"
        assert bool(there.body) == (call.method != "HEAD")
    assert await stored(gateway) == before


@pytest.mark.parametrize("name", VISITS | NEW)
async def test_nobody_gets_in_on_a_websocket(
    gateway: Gateway, kept: dict[tuple[Person, State], str], name: str
) -> None:
    visited = (VISITS | NEW)[name]
    before = await stored(gateway)
    query = {} if name in NEW else visited.query(kept[ALICE_BY_KEY, visited.state])
    for person in REFUSED:
        # Who is silent and brings nothing is waited for; see `test_connecting`.
        frame = visited.sent(person) or {"type": "ping"}
        assert (person, await outcome(gateway, person, frame, **query)) == (person, UNAUTHORIZED)
    assert await stored(gateway) == before


# Anybody


@pytest.mark.parametrize("path", PUBLIC)
@people(REFUSED[0], REFUSED[2], ALICE_BY_KEY)
async def test_what_is_public_needs_nothing_and_shows_nothing_secret(
    gateway: Gateway, kept: dict[tuple[Person, State], str], path: str, person: Person
) -> None:
    path = path.replace("{path:path}", "index.html")
    shown = await gateway.http.get(path, headers=person.headers)
    assert shown.status_code == 200
    secrets = [ALICE, ALICES.id, ALICES.digest, SECRET, QUICK, str(gateway.database)]
    secrets += [*kept.values(), *(each.token for each in REFUSED if each.authorization)]
    said = shown.text + str(shown.headers)
    assert [secret for secret in secrets if secret in said] == []
    without = await gateway.http.get(path)
    assert without.headers.keys() == shown.headers.keys()
