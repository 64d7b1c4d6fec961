"""How somebody says who they are: in a header, a subprotocol, the first frame, or with a ticket."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from httpx_ws import AsyncWebSocketSession, aconnect_ws

from gateway.settings import Settings
from protocol.server_frames import PROTOCOL
from tests.gateway.access.people import (
    ALICE,
    ALICE_BY_KEY,
    ALICE_BY_TOKEN,
    ANONYMOUS,
    BOB,
    BOB_BY_KEY,
    NOT_FOUND,
    REFUSED,
    UNAUTHORIZED,
    Person,
    access_settings,
    bearing,
    joined,
    line,
    new_session,
    outcome,
    refusals,
    tell_time,
    ticket,
    token,
    told,
)
from tests.gateway.auth.signing import Clock, hs256
from tests.gateway.harness import WITHIN_S, Gateway, Json, Tab, in_process, on_sockets
from tests.gateway.peers import Peer
from tests.llm.scripted import ScriptedModel

NEVER_GOOD = tuple(person for person in REFUSED if person not in (ANONYMOUS, REFUSED[2]))
"""Those of the refused who bring something, and whose key was never taken back."""

BOTH_WAYS = pytest.mark.parametrize("allow_anonymous", [False, True], ids=["asked", "not asked"])


@pytest.fixture
def settings(tmp_path: Path, model: ScriptedModel) -> Settings:
    return access_settings(tmp_path, model.url)


@pytest.fixture
async def gateway(settings: Settings) -> AsyncIterator[Gateway]:
    """A gateway in this process that knows Alice and Bob."""
    async with in_process(settings) as gateway:
        yield gateway


@pytest.fixture
async def served(settings: Settings) -> AsyncIterator[Gateway]:
    """The same on a port."""
    async with on_sockets(settings) as gateway:
        yield gateway


async def owner_of(gateway: Gateway, tab: Tab) -> list[tuple[str]]:
    return gateway.rows("SELECT owner FROM owners WHERE session_id = ?", tab.session_id)


def auth_frame(size: int) -> str:
    """Write an `auth` frame of Alice's of exactly so many bytes."""
    frame = json.dumps({"type": "auth", "token": ALICE, "padding": ""})
    padded = frame.replace('"padding": "', '"padding": "' + "x" * (size - len(frame)))
    assert len(padded) == size
    return padded


# By a header


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_header_says_it(gateway: Gateway, scheme: str) -> None:
    async with gateway.tab(headers={"Authorization": f"{scheme} {ALICE}"}) as tab:
        assert await owner_of(gateway, tab) == [("key:alice",)]


# By a subprotocol


@pytest.mark.parametrize(
    ("offered", "answered"),
    [
        ([f"bearer.{ALICE}"], None),
        ([PROTOCOL, f"bearer.{ALICE}"], PROTOCOL),
        ([f"bearer.{ALICE}", PROTOCOL], PROTOCOL),
        ([f"bearer.{ALICE}", "other.v1", PROTOCOL], PROTOCOL),
        ([f"bearer.{ALICE}", "other.v1"], "other.v1"),
        ([f"Bearer.{ALICE}"], None),
        ([f"BEARER.{ALICE}", "other.v1"], "other.v1"),
    ],
)
async def test_a_subprotocol_says_it_and_is_not_answered(
    served: Gateway, offered: list[str], answered: str | None
) -> None:
    async with served.tab(subprotocols=offered) as tab:
        assert tab.socket.subprotocol == answered
        assert await owner_of(served, tab) == [("key:alice",)]


async def test_nothing_of_a_token_comes_back_on_the_wire(served: Gateway) -> None:
    for credential in (ALICE, token("alice"), "bad-token"):
        async with Peer(str(served.http.base_url)) as peer:
            await peer.request(
                "GET",
                "/ws",
                Connection="Upgrade",
                Upgrade="websocket",
                Sec_WebSocket_Version="13",
                Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
                Sec_WebSocket_Protocol=f"bearer.{credential}",
            )
            head = await peer.until(b"\r\n\r\n")
            frame = await peer.frame()
        assert b" 101 " in head
        assert b"sec-websocket-protocol" not in head.lower()
        assert credential not in head.decode() + json.dumps(frame)


@pytest.mark.parametrize(
    "offered",
    [
        ["bearer."],
        ["bearer.nonsense"],
        [f"bearer.{ALICE}", f"bearer.{ALICE}"],
        [f"bearer.{ALICE}", f"bearer.{BOB}"],
        [f"bearer.{ALICE[:-1]}", PROTOCOL],
    ],
)
async def test_a_bad_subprotocol_is_told_and_closed(served: Gateway, offered: list[str]) -> None:
    socket: AsyncWebSocketSession
    async with aconnect_ws("/ws", served.http, subprotocols=offered) as socket:
        frames, code = await told(socket)
        assert socket.subprotocol in (None, PROTOCOL)
    assert (refusals(frames), code) == UNAUTHORIZED


async def test_two_headers_decide_nothing(served: Gateway) -> None:
    for first, second in ((ALICE, BOB), (ALICE, ALICE), (ALICE, "nonsense")):
        twice = [("Authorization", f"Bearer {key}") for key in (first, second)]
        refused = await served.http.post("/api/sessions", headers=twice)
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")


async def test_the_header_decides_over_a_subprotocol(served: Gateway) -> None:
    offered = [f"bearer.{BOB}", PROTOCOL]
    async with served.tab(subprotocols=offered, headers=ALICE_BY_KEY.headers) as tab:
        assert await owner_of(served, tab) == [("key:alice",)]


# By the first frame


@pytest.mark.parametrize("person", [ALICE_BY_KEY, ALICE_BY_TOKEN], ids=str)
async def test_the_first_frame_says_it(gateway: Gateway, person: Person) -> None:
    async with line(gateway) as socket:
        await socket.send_text(json.dumps({"type": "auth", "token": person.token}))
        assert await owner_of(gateway, await joined(socket)) == [(person.name,)]


@pytest.mark.parametrize(
    "first",
    [
        "안녕",
        '{"type": "chat", "message": "안녕"}',
        '{"type": "ping"}',
        '{"type": "auth"}',
        '{"type": "auth", "token": null}',
        '{"type": "auth", "token": ""}',
        '{"type": "auth", "token": "Bearer nonsense"}',
        '{"type": "auth", "token": "' + "x" * 4_000 + '"}',
        '{"type": "auth", "token": "\\ud800"}',
        f'[{{"type": "auth", "token": "{ALICE}"}}]',
        '{"type": "auth", "tok',
        f"/auth {ALICE}",
        ALICE,
        "{",
        "",
    ],
    ids=range(15),  # a key is another one in every process
)
async def test_a_first_frame_that_is_no_good_auth_is_told_and_closed(
    gateway: Gateway, first: str
) -> None:
    async with line(gateway) as socket:
        await socket.send_text(first)
        frames, code = await told(socket)
    assert (refusals(frames), code) == UNAUTHORIZED
    assert ALICE not in json.dumps(frames)
    assert gateway.rows("SELECT * FROM sessions") == []


async def test_a_first_frame_of_bytes_is_told_and_closed(gateway: Gateway) -> None:
    async with line(gateway) as socket:
        await socket.send_bytes(json.dumps({"type": "auth", "token": ALICE}).encode())
        frames, code = await told(socket)
    assert (refusals(frames), code) == UNAUTHORIZED


async def test_a_second_try_is_not_to_be_had(gateway: Gateway) -> None:
    good = {"type": "auth", "token": ALICE}
    async with line(gateway) as socket:
        await socket.send_text(json.dumps(good | {"token": "nonsense"}))
        await socket.send_text(json.dumps(good))
        frames, code = await told(socket)
    assert (refusals(frames), code) == UNAUTHORIZED


async def test_what_follows_the_first_frame_at_once_is_answered(gateway: Gateway) -> None:
    async with line(gateway) as socket:
        await socket.send_text(json.dumps({"type": "auth", "token": ALICE}))
        await socket.send_text("/ping at-once")
        assert (await (await joined(socket)).next("pong"))["request_id"] == "at-once"


async def test_who_says_nothing_is_told_and_closed(tmp_path: Path) -> None:
    async with (
        on_sockets(access_settings(tmp_path, auth_timeout_s=0.05)) as gateway,
        line(gateway) as socket,
    ):
        began = time.monotonic()
        frames, code = await told(socket)
        assert (refusals(frames), code) == UNAUTHORIZED
        assert "0.05 seconds" in frames[0]["message"]
        assert 0.04 < time.monotonic() - began < 3


async def test_who_has_said_it_is_not_hurried_any_more(tmp_path: Path) -> None:
    async with (
        in_process(access_settings(tmp_path, auth_timeout_s=0.05)) as gateway,
        line(gateway) as silent,
        gateway.tab(headers=ALICE_BY_KEY.headers) as tab,
    ):
        await told(silent)  # by now the time is over
        assert "error" not in [frame["type"] for frame in await tab.settle()]


async def test_who_leaves_without_a_word_leaves_nothing_behind(gateway: Gateway) -> None:
    occupancy = gateway.house.entrance.occupancy
    async with line(gateway):
        assert occupancy.unauthenticated == 1
    with anyio.fail_after(WITHIN_S):
        while occupancy.total:
            await anyio.lowlevel.checkpoint()
    assert gateway.rows("SELECT * FROM sessions") == []


# How large it may be


@pytest.mark.parametrize("most", [512, 4_096])
async def test_a_first_frame_may_be_just_so_large(tmp_path: Path, most: int) -> None:
    settings = access_settings(tmp_path, max_unauthenticated_frame_bytes=most)
    async with on_sockets(settings) as gateway:
        async with line(gateway) as socket:
            await socket.send_text(auth_frame(most))
            await joined(socket)
        async with line(gateway) as socket:
            await socket.send_text(auth_frame(most + 1))
            assert await told(socket) == ([], 1009)


async def test_a_first_frame_in_fragments_may_not_be_larger(served: Gateway) -> None:
    async with Peer(str(served.http.base_url)) as peer:
        await peer.request(
            "GET",
            "/ws",
            Connection="Upgrade",
            Upgrade="websocket",
            Sec_WebSocket_Version="13",
            Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
        )
        assert b" 101 " in await peer.until(b"\r\n\r\n")
        text, fin, masked = 0x01, 0x80, 0x80
        whole = auth_frame(4_097).encode()
        pieces = [whole[at : at + 125] for at in range(0, len(whole), 125)]
        for number, piece in enumerate(pieces):
            opcode = (text if number == 0 else 0) | (fin if piece is pieces[-1] else 0)
            await peer.send(bytes((opcode, masked | len(piece), 0, 0, 0, 0)) + piece)
        assert await peer.frame() == {"type": "close", "code": 1009}


async def test_after_that_frames_may_be_large_again(served: Gateway, model: ScriptedModel) -> None:
    async with line(served) as socket:
        await socket.send_text(auth_frame(4_096))
        tab = await joined(socket)
        most = tab.ready["limits"]["max_frame_bytes"]
        await tab.say(json.dumps({"type": "ping", "padding": "x" * (most - 1_000)}))
        await tab.next("pong")
        await tab.say("가" * 20_000)
        await tab.next("accepted")
        await tab.say("x" * (most + 1))
        assert await tab.closed() == 1009


async def test_who_came_with_a_header_may_send_large_frames_at_once(served: Gateway) -> None:
    async with served.tab(headers=ALICE_BY_KEY.headers) as tab:
        await tab.say(json.dumps({"type": "ping", "padding": "x" * 100_000}))
        await tab.next("pong")


# By a ticket


@pytest.mark.parametrize("person", [ALICE_BY_KEY, ALICE_BY_TOKEN], ids=str)
async def test_a_ticket_opens_one_websocket(gateway: Gateway, person: Person) -> None:
    once = await ticket(gateway, person)
    async with line(gateway, ticket=once) as socket:
        assert await owner_of(gateway, await joined(socket)) == [(person.name,)]
    assert await outcome(gateway, ANONYMOUS, ticket=once) == UNAUTHORIZED


async def test_a_ticket_opens_one_event_stream(served: Gateway) -> None:
    session_id = await new_session(served, ALICE_BY_KEY)
    path = f"/api/sessions/{session_id}/events?ticket={await ticket(served, ALICE_BY_KEY)}"
    async with served.sse("GET", path) as events:
        assert (await events.next("ready"))["session_id"] == session_id
    assert (await served.http.get(path)).status_code == 401


async def test_a_ticket_used_for_one_thing_is_used_for_all(served: Gateway) -> None:
    session_id = await new_session(served, ALICE_BY_KEY)
    once = await ticket(served, ALICE_BY_KEY)
    async with line(served, ticket=once) as socket:
        await joined(socket)
    events = await served.http.get(f"/api/sessions/{session_id}/events?ticket={once}")
    assert (events.status_code, events.json()["code"]) == (401, "unauthorized")


async def test_a_ticket_leads_to_nobody_elses_session(gateway: Gateway) -> None:
    session_id = await new_session(gateway, ALICE_BY_KEY)
    bobs = await ticket(gateway, BOB_BY_KEY)
    assert await outcome(gateway, ANONYMOUS, session_id=session_id, ticket=bobs) == NOT_FOUND
    bobs = await ticket(gateway, BOB_BY_KEY)
    events = await gateway.http.get(f"/api/sessions/{session_id}/events?ticket={bobs}")
    assert (events.status_code, events.json()["code"]) == (404, "session_not_found")


ELSEWHERE = (
    ("GET", "/api/sessions"),
    ("POST", "/api/sessions"),
    ("GET", "/api/sessions/{id}"),
    ("GET", "/api/sessions/{id}/messages"),
    ("POST", "/api/sessions/{id}/cancel"),
    ("POST", "/api/chat"),
    ("POST", "/api/chat/stream"),
    ("POST", "/api/tickets"),
    ("DELETE", "/api/sessions/{id}"),
)


async def test_a_ticket_is_looked_at_nowhere_else(gateway: Gateway) -> None:
    session_id = await new_session(gateway, ALICE_BY_KEY)
    once = await ticket(gateway, ALICE_BY_KEY)
    for method, path in ELSEWHERE:
        url = path.format(id=session_id)
        refused = await gateway.http.request(method, f"{url}?ticket={once}")
        assert (url, refused.status_code) == (url, 401)
    async with line(gateway, ticket=once) as socket:  # for it was not used up either
        await joined(socket)


@pytest.mark.parametrize("name", ["token", "access_token", "api_key", "key", "authorization"])
@pytest.mark.parametrize("credential", [ALICE, token("alice")], ids=["key", "JWT"])
async def test_credentials_in_a_query_are_not_looked_at(
    tmp_path: Path, name: str, credential: str
) -> None:
    async with in_process(access_settings(tmp_path, auth_timeout_s=0.01)) as gateway:
        session_id = await new_session(gateway, ALICE_BY_KEY)
        for method, path in (*ELSEWHERE, ("GET", "/api/sessions/{id}/events")):
            url = path.format(id=session_id)
            refused = await gateway.http.request(method, url, params={name: credential})
            assert (url, refused.status_code) == (url, 401)
        assert await outcome(gateway, ANONYMOUS, None, **{name: credential}) == UNAUTHORIZED


@pytest.mark.parametrize(
    "bad",
    ["", "nonsense", ALICE, "a b", "%00", "x" * 5_000],
    ids=["none", "nonsense", "a key", "two words", "NUL", "long"],
)
@BOTH_WAYS
async def test_a_bad_ticket_is_refused_even_if_none_is_needed(
    tmp_path: Path, bad: str, allow_anonymous: bool
) -> None:
    settings = access_settings(tmp_path, allow_anonymous=allow_anonymous)
    async with in_process(settings) as gateway:
        assert await outcome(gateway, ANONYMOUS, ticket=bad) == UNAUTHORIZED


async def test_with_a_header_a_ticket_is_not_used_up(gateway: Gateway) -> None:
    once = await ticket(gateway, BOB_BY_KEY)
    async with line(gateway, headers=ALICE_BY_KEY.headers, ticket=once) as socket:
        assert await owner_of(gateway, await joined(socket)) == [("key:alice",)]
    assert await outcome(gateway, bearing("bad", "nonsense"), ticket=once) == UNAUTHORIZED
    async with line(gateway, ticket=once) as socket:
        assert await owner_of(gateway, await joined(socket)) == [("key:bob",)]


async def test_a_ticket_does_not_outlast_what_it_was_issued_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    tell_time(monkeypatch, clock)
    async with in_process(access_settings(tmp_path)) as gateway:
        alice = bearing("alice", hs256())
        early, late = await ticket(gateway, alice), await ticket(gateway, alice)
        async with line(gateway, ticket=early) as socket:
            tab = await joined(socket)
            clock.now += 66
            assert (await tab.refused(type="ping"))["code"] == "unauthorized"
            assert await tab.closed() == 4001
        assert await outcome(gateway, ANONYMOUS, ticket=late) == UNAUTHORIZED


# Anonymous callers


@pytest.mark.parametrize("person", NEVER_GOOD, ids=str)
@BOTH_WAYS
async def test_bad_credentials_never_make_somebody_anonymous(
    tmp_path: Path, person: Person, allow_anonymous: bool
) -> None:
    settings = access_settings(tmp_path, allow_anonymous=allow_anonymous)
    async with in_process(settings) as gateway:
        created = await gateway.http.post("/api/sessions", headers=person.headers)
        assert (created.status_code, created.json()["code"]) == (401, "unauthorized")
        assert await outcome(gateway, person) == UNAUTHORIZED
        # Nor is what it says afterwards looked at.
        assert await outcome(gateway, person, {"type": "auth", "token": ALICE}) == UNAUTHORIZED
        assert gateway.rows("SELECT * FROM sessions") == []


async def test_where_it_is_allowed_no_credentials_are_anonymous(tmp_path: Path) -> None:
    async with in_process(access_settings(tmp_path, allow_anonymous=True)) as gateway:
        async with gateway.tab() as tab:  # without a first frame
            assert await owner_of(gateway, tab) == []
        own = await gateway.http.get(f"/api/sessions/{tab.session_id}")
        assert own.status_code == 200
        async with gateway.tab(headers=ALICE_BY_KEY.headers) as hers:
            assert await owner_of(gateway, hers) == [("key:alice",)]
        assert await outcome(gateway, ANONYMOUS, session_id=hers.session_id) == NOT_FOUND
        assert await outcome(gateway, ALICE_BY_KEY, session_id=tab.session_id) == NOT_FOUND


async def test_who_is_anonymous_does_not_become_somebody_by_a_later_frame(tmp_path: Path) -> None:
    async with (
        in_process(access_settings(tmp_path, allow_anonymous=True)) as gateway,
        gateway.tab() as tab,
    ):
        refused = await tab.refused(type="auth", token=ALICE)
        assert refused["code"] == "unauthorized"
        await tab.send(type="ping")
        await tab.next("pong")
        assert await owner_of(gateway, tab) == []


async def test_where_nothing_is_configured_credentials_mean_nothing(gateway_alone: Gateway) -> None:
    # They may be meant for a proxy in front.
    for person in (ALICE_BY_KEY, *NEVER_GOOD):
        created = await gateway_alone.http.post("/api/sessions", headers=person.headers)
        assert created.status_code == 201
        async with gateway_alone.tab(created.json()["session_id"], headers=person.headers) as tab:
            await tab.send(type="auth", token=person.token)
            assert "error" not in [frame["type"] for frame in await tab.settle()]


@pytest.fixture
async def gateway_alone(tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway that knows nobody."""
    nobody: Json = {"api_keys": (), "jwt_issuer": "", "jwt_audience": "", "jwt_secret": ""}
    async with in_process(access_settings(tmp_path, **nobody)) as gateway:
        yield gateway
