"""However a connection ends, its seat is free again: in all, and among those of nobody known."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from httpx_ws import AsyncWebSocketSession, aconnect_ws

from gateway.house import House
from gateway.limits.occupancy import Seat
from gateway.listening import PeerLimits
from tests.gateway.harness import WITHIN_S, Gateway, Json, Tab, call_of
from tests.gateway.limited.visitors import (
    ALICE,
    HOLDERS,
    KEYS,
    Begin,
    Holder,
    a_socket,
    denied,
    empty,
    introduce,
    last_words,
    silent,
    streaming,
    taken,
    turned_away,
    visit,
)
from tests.gateway.peers import Peer, Served, serving
from tests.llm.scripted import ScriptedModel

NOBODY = "00000000-0000-4000-8000-000000000000"
PATHS = ("/api/chat", "/api/chat/stream")


@pytest.fixture
async def gateway(limited: Begin) -> AsyncIterator[Gateway]:
    """A gateway in this process, in which nobody may sit at the end."""
    async with limited() as gateway:
        yield gateway


@pytest.fixture
async def served(served_limited: Begin) -> AsyncIterator[Gateway]:
    """A gateway on a port of 127.0.0.1, in which nobody may sit at the end."""
    async with served_limited() as gateway:
        yield gateway


def count_seats(house: House, monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Note from where each seat is taken from now on."""
    seats: list[str | None] = []
    take = house.entrance.occupancy._seat

    def note(address: str | None) -> Seat:
        seats.append(address)
        return take(address)

    monkeypatch.setattr(house.entrance.occupancy, "_seat", note)
    return seats


# Streams


async def test_a_client_that_leaves_amid_a_reply_leaves_its_seat_and_not_its_turn(
    served: Gateway, model: ScriptedModel
) -> None:
    async with streaming(served) as stream:
        call = await call_of(model)
        await call.say("네")
        await stream.next("token")
        await taken(served, 1)
    await empty(served)
    assert served.house.turns.running == 1
    await call.complete()


async def test_a_client_that_leaves_an_event_stream_leaves_its_seat(served: Gateway) -> None:
    path = f"/api/sessions/{await served.new_session()}/events"
    async with served.sse("GET", path) as stream:
        await stream.next("ready")
        await taken(served, 1)
    await empty(served)


async def test_a_stream_that_ends_in_good_order_leaves_its_seat(
    served: Gateway, model: ScriptedModel
) -> None:
    async with streaming(served) as stream:
        await (await call_of(model)).complete()
        await stream.all()
        assert stream.done
        await empty(served)


@asynccontextmanager
async def raw(directory: Path) -> AsyncIterator[tuple[Served, House, str]]:
    """A gateway whose connections can be looked at, and a session in it."""
    async with serving(directory, PeerLimits()) as served:
        async with httpx.AsyncClient(base_url=served.url, trust_env=False) as http:
            created: Json = (await http.post("/api/sessions", json={})).json()
        yield served, served.server.app.state.house, created["session_id"]


async def post(peer: Peer, path: str, session_id: str) -> None:
    """Ask, without waiting for what is said to that."""
    body = json.dumps({"session_id": session_id, "message": "hi"}).encode()
    await peer.request("POST", path, Content_Length=str(len(body)))
    await peer.send(body)


class Held:
    """A function that does what it does only when it is let."""

    def __init__(self, original: Callable[..., Awaitable[Any]]) -> None:
        self._original = original
        self.called, self.let = anyio.Event(), anyio.Event()

    async def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.called.set()
        with anyio.fail_after(WITHIN_S):
            await self.let.wait()
        return await self._original(*arguments, **options)


async def test_a_client_that_leaves_before_its_turn_is_stored_leaves_its_seat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with raw(tmp_path) as (served, house, session_id):
        held = Held(house.turns.accept)
        monkeypatch.setattr(house.turns, "accept", held)
        async with Peer(served.url) as peer:
            await post(peer, "/api/chat/stream", session_id)
            await held.called.wait()
        await served.all_gone()
        assert house.entrance.occupancy.total == 1
        held.let.set()
        await call_of(served.model)
        await seatless(house)


async def test_a_client_that_leaves_before_the_first_byte_of_its_events_leaves_its_seat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with raw(tmp_path) as (served, house, session_id):
        seats = count_seats(house, monkeypatch)
        held = Held(house.database.read)
        monkeypatch.setattr(house.database, "read", held)
        async with Peer(served.url) as peer:
            await peer.request("GET", f"/api/sessions/{session_id}/events")
            await held.called.wait()
        await served.all_gone()
        held.let.set()
        with anyio.fail_after(WITHIN_S):
            while not seats:
                await anyio.lowlevel.checkpoint()
        await seatless(house)


async def test_who_waits_for_a_whole_reply_and_leaves_has_a_seat_until_that_is_there(
    tmp_path: Path,
) -> None:
    async with raw(tmp_path) as (served, house, session_id):
        async with Peer(served.url) as peer:
            await post(peer, "/api/chat", session_id)
            call = await call_of(served.model)
        await served.all_gone()
        assert house.entrance.occupancy.total == 1
        await call.answer("네")
        await seatless(house)


async def seatless(house: House) -> None:
    """Wait until nobody sits in a house."""
    occupancy = house.entrance.occupancy
    with anyio.fail_after(WITHIN_S):
        while occupancy.total or occupancy.unauthenticated:
            await anyio.lowlevel.checkpoint()


# Turns that are not begun, and those that end badly

REFUSED: list[tuple[Json, int]] = [
    ({"session_id": NOBODY, "message": "안녕"}, 404),
    ({"message": "안" * 32_001}, 422),
    ({"message": ""}, 422),
    ({"message": "안녕", "max_new_tokens": 8_193}, 422),
    ({"message": "안녕", "replaces": 7}, 409),
    ({"message": "다른", "request_id": "r1"}, 409),
    ({"message": "안녕", "request_id": "r2"}, 409),
]


@pytest.mark.parametrize("path", PATHS)
async def test_a_turn_that_is_refused_leaves_no_seat_behind(
    gateway: Gateway, model: ScriptedModel, path: str
) -> None:
    async with gateway.tab() as tab:
        await tab.chat("안녕", request_id="r1")
        for body, status in REFUSED:
            asked = {"session_id": tab.session_id, **body}
            assert (await gateway.http.post(path, json=asked)).status_code == status
            assert gateway.house.entrance.occupancy.total == 1


@pytest.mark.parametrize("path", PATHS)
async def test_a_limit_that_refuses_a_turn_leaves_no_seat_behind(limited: Begin, path: str) -> None:
    limits = {"messages_per_minute": 1, "max_body_bytes": 4_096, "api_keys": KEYS}
    async with limited(**limits) as gateway, visit(gateway, key=ALICE) as alice:
        body = {"session_id": NOBODY, "message": "안녕"}
        answers = [
            await alice.http.post(path, json=body),
            await alice.http.post(path, json=body),
            await alice.http.post(path, json=body | {"message": "안" * 4_096}),
            await gateway.http.post(path, json=body),
        ]
        assert [answer.status_code for answer in answers] == [404, 429, 413, 401]
        assert gateway.house.entrance.occupancy.total == 0


@pytest.mark.parametrize("path", PATHS)
async def test_a_mistake_of_ours_leaves_no_seat_behind(
    served: Gateway, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(served.house.turns, "accept", fail)
    answer = await served.http.post(path, json={"session_id": NOBODY, "message": "안녕"})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    await empty(served)


async def test_a_reply_that_is_cancelled_leaves_no_seat_behind(
    gateway: Gateway, model: ScriptedModel
) -> None:
    body = {"session_id": await gateway.new_session(), "message": "안녕"}
    replies: list[httpx.Response] = []

    async def ask() -> None:
        replies.append(await gateway.http.post("/api/chat", json=body))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await call_of(model)
        await taken(gateway, 1)
        cancelled = await gateway.http.post(f"/api/sessions/{body['session_id']}/cancel", json={})
        assert cancelled.status_code == 202
    assert replies[0].json()["finish_reason"] == "cancelled"
    await empty(gateway)


@pytest.mark.parametrize("path", PATHS)
async def test_a_model_that_cannot_answer_leaves_no_seat_behind(
    gateway: Gateway, model: ScriptedModel, path: str
) -> None:
    body = {"session_id": await gateway.new_session(), "message": "안녕"}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: gateway.http.post(path, json=body))
        call = await call_of(model)
        await call.status(422)
    await empty(gateway)


@pytest.mark.parametrize("holder", HOLDERS, ids=lambda holder: holder.__name__)
async def test_a_session_that_is_deleted_takes_its_seats_along(
    served: Gateway, model: ScriptedModel, holder: Holder
) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold, holder, served, model)
        await taken(served, 1)
        while not (sessions := served.rows("SELECT session_id FROM sessions")):
            await anyio.lowlevel.checkpoint()
        for (session_id,) in sessions:
            await served.http.delete(f"/api/sessions/{session_id}")
        await empty(served)
        tasks.cancel_scope.cancel()


async def hold(holder: Holder, gateway: Gateway, model: ScriptedModel) -> None:
    async with holder(gateway, model):
        await anyio.sleep_forever()


# Handshakes that come to nothing


async def test_a_handshake_that_is_refused_outright_takes_no_seat(
    served: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    seats = count_seats(served.house, monkeypatch)
    for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}):
        assert (await denied(served, **headers)).status_code == 403
    assert seats == []


async def test_a_socket_for_a_session_that_is_not_there_leaves_no_seat_behind(
    gateway: Gateway,
) -> None:
    assert (await turned_away(gateway, NOBODY))[1] == 4504
    await empty(gateway)


@pytest.mark.parametrize(
    "frame",
    [
        "안녕",
        '{"type": "ping"}',
        '{"type": "auth"}',
        '{"type": "auth", "token": "wrong"}',
        '{"type": "auth", "token": ""}',
    ],
)
async def test_a_socket_whose_first_frame_proves_nothing_leaves_no_seat_behind(
    limited: Begin, frame: str
) -> None:
    async with limited(api_keys=KEYS) as gateway, silent(gateway) as socket:
        await socket.send_text(frame)
        assert (await last_words(socket))[1] == 4500
        await empty(gateway)


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": "Bearer wrong"}, {"Authorization": "Basic eDp5"}, {"Authorization": ""}],
)
async def test_a_socket_with_credentials_that_are_no_good_leaves_no_seat_behind(
    limited: Begin, headers: dict[str, str]
) -> None:
    socket: AsyncWebSocketSession
    async with limited(api_keys=KEYS) as gateway:
        async with aconnect_ws("/ws", gateway.http, headers=headers) as socket:
            assert (await last_words(socket))[1] == 4500
        await empty(gateway)


async def test_a_socket_that_is_given_up_before_it_says_who_it_is_leaves_no_seat_behind(
    served_limited: Begin,
) -> None:
    async with served_limited(api_keys=KEYS) as gateway:
        async with silent(gateway):
            await taken(gateway, 1)
            assert gateway.house.entrance.occupancy.unauthenticated == 1
        await empty(gateway)


async def test_a_socket_of_somebody_who_is_refused_a_session_leaves_no_seat_behind(
    limited: Begin,
) -> None:
    async with limited(max_sessions=1, api_keys=KEYS) as gateway, silent(gateway) as socket:
        async with visit(gateway, key=ALICE) as alice:
            await alice.new_session()
        await socket.send_text(json.dumps({"type": "auth", "token": ALICE}))
        assert (await last_words(socket))[1] == 4505
        await empty(gateway)


# Sockets


async def send_bytes(tab: Tab) -> None:
    await tab.socket.send_bytes(b"x")


async def send_nonsense(tab: Tab) -> None:
    for _ in range(10):
        await tab.say("{")


async def send_too_much(tab: Tab) -> None:
    await tab.say("안" * 512 * 1024)


@pytest.mark.parametrize(
    ("misbehave", "code"), [(send_bytes, 1003), (send_nonsense, 4502), (send_too_much, 1009)]
)
async def test_a_socket_that_is_closed_for_what_it_sends_leaves_no_seat_behind(
    served: Gateway, misbehave: Callable[[Tab], Awaitable[None]], code: int
) -> None:
    async with served.tab() as tab:
        await misbehave(tab)
        assert await tab.closed() == code
        await empty(served)


async def test_a_socket_that_is_gone_without_a_word_leaves_no_seat_behind(tmp_path: Path) -> None:
    async with raw(tmp_path) as (served, house, _):
        async with Peer(served.url) as peer:
            await peer.open()
            assert house.entrance.occupancy.total == 1
        await served.all_gone()
        await seatless(house)


async def test_who_proves_anew_who_it_is_keeps_its_one_seat(limited: Begin) -> None:
    async with limited(api_keys=KEYS, max_connections_per_principal=1) as gateway:
        async with silent(gateway) as socket:
            tab = await introduce(socket, ALICE)
            await tab.send(type="auth", token=ALICE)
            await tab.settle()
            assert gateway.house.entrance.occupancy.by_principal("key:alice") == 1
        await empty(gateway)
        async with visit(gateway, key=ALICE) as alice, alice.tab():
            await taken(gateway, 1)


async def test_many_come_and_go_at_once_and_nothing_is_left(
    served: Gateway, model: ScriptedModel
) -> None:
    model.autoreply(lambda messages: ["네"])
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            for visit_once in (chat_once, stream_once, hold_once):
                tasks.start_soon(visit_once, served, model)
    await empty(served)


async def chat_once(gateway: Gateway, model: ScriptedModel) -> None:
    body = {"session_id": await gateway.new_session(), "message": "안녕"}
    assert (await gateway.http.post("/api/chat", json=body)).status_code == 200


async def stream_once(gateway: Gateway, model: ScriptedModel) -> None:
    async with streaming(gateway) as stream:
        await stream.all()


async def hold_once(gateway: Gateway, model: ScriptedModel) -> None:
    async with a_socket(gateway, model):
        pass
