"""For how long somebody may stay: tokens expire, are renewed, and keys are taken back."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from gateway import chores, sse
from gateway.auth import opening
from gateway.auth.tokens import LEEWAY_S
from gateway.settings import Settings
from tests.gateway.access.people import (
    ALICE,
    ALICE_BY_KEY,
    BOB_BY_KEY,
    CAROL_BY_KEY,
    CAROLS,
    UNAUTHORIZED,
    Person,
    access_settings,
    answered,
    bearing,
    new_session,
    outcome,
    revoke,
    rewrite,
    status,
    tell_time,
    token,
)
from tests.gateway.auth.signing import NOW, Clock, hs256
from tests.gateway.harness import WITHIN_S, Gateway, Json, Sse, call_of, in_process, on_sockets
from tests.llm.scripted import ScriptedModel

SOON = 0.005
UNTIL = NOW + 60 + LEEWAY_S
"""When the token of `CLAIMS` is good for nothing any more."""

EXPIRING = bearing("jwt:alice", hs256())
LATER = hs256(exp=NOW + 600)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time by which credentials are judged; the rounds are made all the time."""
    clock = Clock()
    tell_time(monkeypatch, clock)
    monkeypatch.setattr(chores, "ROUND_EVERY_S", SOON)
    monkeypatch.setattr(opening, "KEYS_EVERY_S", SOON)
    return clock


@pytest.fixture
def no_rounds(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that does not get round to it."""
    monkeypatch.setattr(chores, "ROUND_EVERY_S", 3_600)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of API keys: Carol's."""
    file = tmp_path / "keys"
    file.write_text(CAROLS.line)
    return file


@pytest.fixture
def settings(tmp_path: Path, file: Path, model: ScriptedModel) -> Settings:
    return access_settings(tmp_path, model.url, api_keys_file=file)


@pytest.fixture
async def gateway(clock: Clock, settings: Settings) -> AsyncIterator[Gateway]:
    async with in_process(settings) as gateway:
        yield gateway


@pytest.fixture
async def served(clock: Clock, settings: Settings) -> AsyncIterator[Gateway]:
    async with on_sockets(settings) as gateway:
        yield gateway


async def last(events: Sse) -> Json:
    """Read a stream to its end, which has to come soon however much it says until then."""
    with anyio.fail_after(WITHIN_S):
        *_, event = await events.all()
    return event


# Tokens expire


def test_rounds_are_made_every_second() -> None:
    assert chores.ROUND_EVERY_S <= 1


async def test_a_socket_is_closed_when_its_token_expires(gateway: Gateway, clock: Clock) -> None:
    async with gateway.tab(headers=EXPIRING.headers) as tab:
        clock.now = UNTIL - 0.01
        assert "error" not in [frame["type"] for frame in await tab.settle()]
        clock.now = UNTIL
        assert await tab.closed() == 4001
    error = tab.frames[-1]
    assert (error["type"], error["code"], error["retryable"]) == ("error", "unauthorized", False)
    assert "id" not in error
    assert "expired" in error["message"]


async def test_that_takes_a_second_at_most_by_the_real_clock(tmp_path: Path) -> None:
    lasts_s = 0.5
    expires_at = time.time() + lasts_s
    alice = bearing("alice", token("alice", lasts_s=lasts_s - LEEWAY_S))
    async with (
        on_sockets(access_settings(tmp_path)) as gateway,
        gateway.tab(headers=alice.headers) as tab,
    ):
        assert await tab.closed() == 4001
        # A busy machine is late for its rounds.
        assert 0 <= time.time() - expires_at < chores.ROUND_EVERY_S + 1


async def test_other_sockets_of_the_same_user_stay(gateway: Gateway, clock: Clock) -> None:
    alice = bearing("alice", LATER)
    async with (
        gateway.tab(headers=EXPIRING.headers) as first,
        gateway.tab(first.session_id, headers=alice.headers) as second,
        gateway.tab(headers=ALICE_BY_KEY.headers) as third,
    ):
        clock.now = UNTIL
        assert await first.closed() == 4001
        for tab in (second, third):
            assert "error" not in [frame["type"] for frame in await tab.settle()]


async def test_an_expired_token_opens_nothing(gateway: Gateway, clock: Clock) -> None:
    session_id = await new_session(gateway, EXPIRING)
    clock.now = UNTIL
    assert await status(gateway, EXPIRING) == 401
    assert await outcome(gateway, EXPIRING, session_id=session_id) == UNAUTHORIZED


@pytest.mark.usefixtures("no_rounds")
@pytest.mark.parametrize(
    "frame",
    [
        {"type": "chat", "message": "나"},
        {"type": "regenerate", "turn": 1},
        {"type": "cancel"},
        {"type": "history"},
        {"type": "ping"},
        {"type": "help"},
    ],
    ids=lambda frame: frame["type"],
)
async def test_a_frame_between_the_expiry_and_the_round_is_refused(
    gateway: Gateway, clock: Clock, model: ScriptedModel, frame: dict[str, str]
) -> None:
    async with gateway.tab(headers=EXPIRING.headers) as tab:
        await tab.chat("안녕")
        call = await call_of(model)
        await tab.next("start")
        clock.now = UNTIL
        assert (await tab.refused(**frame))["code"] == "unauthorized"
        await call.complete()
        await tab.next("complete")  # it was not cancelled
    assert len(gateway.rows("SELECT * FROM turns")) == 1


@pytest.mark.usefixtures("no_rounds")
async def test_what_the_token_had_begun_goes_on_and_is_stored(
    gateway: Gateway, clock: Clock, model: ScriptedModel
) -> None:
    async with gateway.tab(headers=EXPIRING.headers) as tab:
        await tab.chat("안녕")
        call = await call_of(model)
        await call.say("하나 ")
        await tab.text_until("하나 ")
        clock.now = UNTIL
        gateway.house.connections.copy().pop().check_rights()
        assert await tab.closed() == 4001
        assert gateway.house.turns.running == 1
    again = bearing("alice", LATER)
    async with gateway.tab(tab.session_id, tab.cursor, headers=again.headers) as tab:
        await call.say("둘")
        await call.complete()
        await tab.ends()
        assert tab.text() == "둘"
    assert gateway.replies() == [("stop", "하나 둘")]


async def test_a_stream_of_events_ends_with_an_error(
    served: Gateway, clock: Clock, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", SOON)
    session_id = await new_session(served, EXPIRING)
    async with served.sse(
        "GET", f"/api/sessions/{session_id}/events", headers=EXPIRING.headers
    ) as events:
        await events.next("ready")
        clock.now = UNTIL
        error = await last(events)
    assert (error["type"], error["code"]) == ("error", "unauthorized")
    assert "id" not in error


async def test_a_stream_of_one_turn_ends_with_an_error_and_the_turn_does_not(
    served: Gateway, clock: Clock, model: ScriptedModel
) -> None:
    session_id = await new_session(served, EXPIRING)
    asks = {"session_id": session_id, "message": "안녕"}
    async with served.sse(
        "POST", "/api/chat/stream", json=asks, headers=EXPIRING.headers
    ) as stream:
        call = await call_of(model)
        await call.say("하나 ")
        await stream.next("token")
        clock.now = UNTIL
        await call.say("둘")
        error = await last(stream)
        assert stream.done
    assert (error["code"], error["message"][:14]) == ("unauthorized", "Stream error: ")
    assert "id" not in error
    assert "둘" not in stream.text()
    await call.complete()
    with anyio.fail_after(WITHIN_S):
        while served.house.turns.running:
            await anyio.lowlevel.checkpoint()
    assert served.replies() == [("stop", "하나 둘")]


async def test_a_reply_that_is_waited_for_is_kept_from_who_has_expired(
    gateway: Gateway, clock: Clock, model: ScriptedModel
) -> None:
    session_id = await new_session(gateway, EXPIRING)
    asks = {"session_id": session_id, "message": "안녕"}
    codes: list[str] = []

    async def ask() -> None:
        answered = await gateway.http.post("/api/chat", json=asks, headers=EXPIRING.headers)
        codes.append(answered.json()["code"])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        call = await call_of(model)
        clock.now = UNTIL
        await call.answer("비밀")
    assert codes == ["unauthorized"]
    assert gateway.replies() == [("stop", "비밀")]


# Tokens are renewed


async def test_a_new_token_keeps_the_socket_open(gateway: Gateway, clock: Clock) -> None:
    async with gateway.tab(headers=EXPIRING.headers) as tab:
        await tab.send(type="auth", token=LATER)
        assert "error" not in [frame["type"] for frame in await tab.settle()]
        clock.now = UNTIL + 1
        assert "error" not in [frame["type"] for frame in await tab.settle()]
        clock.now = NOW + 600 + LEEWAY_S
        assert await tab.closed() == 4001


@pytest.mark.usefixtures("no_rounds")
async def test_a_new_token_comes_in_time_until_the_socket_is_closed(
    gateway: Gateway, clock: Clock
) -> None:
    async with gateway.tab(headers=EXPIRING.headers) as tab:
        clock.now = UNTIL
        await tab.send(type="auth", token=LATER)
        assert "error" not in [frame["type"] for frame in await tab.settle()]


@pytest.mark.parametrize(
    "other",
    [
        ALICE,  # called the same, but by a key
        BOB_BY_KEY.token,
        hs256(sub="bob", exp=NOW + 600),
        hs256(sub="Alice", exp=NOW + 600),
        hs256(exp=NOW - 60),
        hs256("another secret of thirty-two bytes and more", exp=NOW + 600),
        LATER[:-2],
        "nonsense",
        "two words",
        "",
    ],
    ids=["key", "bob's key", "bob", "Alice", "expired", "forged", "cut", "bad", "words", "empty"],
)
async def test_a_token_that_will_not_do_leaves_the_socket_with_its_old_rights(
    gateway: Gateway, clock: Clock, other: str
) -> None:
    async with gateway.tab(headers=EXPIRING.headers) as tab:
        refused = await tab.refused(type="auth", token=other)
        assert refused["code"] == "unauthorized"
        assert not other or other not in refused["message"]
        await tab.send(type="ping", request_id="still here")
        assert (await tab.next("pong"))["request_id"] == "still here"
        await tab.history()
        clock.now = UNTIL
        assert await tab.closed() == 4001
    assert gateway.rows("SELECT owner FROM owners") == [("jwt:alice",)]


# Keys are taken back


async def test_a_key_that_is_taken_back_closes_what_it_opened(gateway: Gateway, file: Path) -> None:
    async with (
        gateway.tab(headers=CAROL_BY_KEY.headers) as carols,
        gateway.tab(headers=ALICE_BY_KEY.headers) as alices,
    ):
        await revoke(gateway, CAROL_BY_KEY, file)
        assert await carols.closed() == 4500
        error = carols.frames[-1]
        assert (error["code"], "id" in error) == ("unauthorized", False)
        assert "expired" not in error["message"]
        assert "error" not in [frame["type"] for frame in await alices.settle()]
    assert await outcome(gateway, CAROL_BY_KEY, session_id=carols.session_id) == UNAUTHORIZED
    assert await status(gateway, CAROL_BY_KEY) == 401


async def test_a_key_that_is_taken_back_ends_its_streams(
    served: Gateway, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", SOON)
    session_id = await new_session(served, CAROL_BY_KEY)
    async with served.sse(
        "GET", f"/api/sessions/{session_id}/events", headers=CAROL_BY_KEY.headers
    ) as events:
        await events.next("ready")
        await revoke(served, CAROL_BY_KEY, file)
        error = await last(events)
    assert (error["type"], error["code"], "id" in error) == ("error", "unauthorized", False)


@pytest.mark.usefixtures("no_rounds")
async def test_a_frame_after_a_key_was_taken_back_is_refused(gateway: Gateway, file: Path) -> None:
    async with gateway.tab(headers=CAROL_BY_KEY.headers) as tab:
        await revoke(gateway, CAROL_BY_KEY, file)
        refused = await tab.refused(type="chat", message="안녕", request_id="r1")
        assert (refused["code"], refused["request_id"]) == ("unauthorized", "r1")
    assert gateway.rows("SELECT * FROM turns") == []


@pytest.mark.parametrize("person", [ALICE_BY_KEY, EXPIRING], ids=str)
async def test_a_key_given_back_opens_again_what_was_its_owners(
    gateway: Gateway, file: Path, person: Person
) -> None:
    session_id = await new_session(gateway, CAROL_BY_KEY)
    await revoke(gateway, CAROL_BY_KEY, file)
    rewrite(file, CAROLS.line)
    await answered(gateway, CAROL_BY_KEY, 200)
    async with gateway.tab(session_id, headers=CAROL_BY_KEY.headers) as tab:
        assert tab.session_id == session_id
    assert await outcome(gateway, person, session_id=session_id) == (["session_not_found"], 4504)
