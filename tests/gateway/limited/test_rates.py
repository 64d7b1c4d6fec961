"""How often somebody may come, begin sessions and ask: so many at once, and more as time passes."""

from collections.abc import AsyncIterator

import pytest
from httpx_ws import AsyncWebSocketSession, aconnect_ws

from tests.gateway.harness import Gateway, Json
from tests.gateway.limited.visitors import (
    ALICE,
    BOB,
    HERE,
    KEYS,
    THERE,
    Begin,
    Clock,
    denied,
    last_words,
    problem,
    retry_after,
    silent,
    stop_time,
    turned_away,
    visit,
)
from tests.llm.scripted import ScriptedModel

RATE = 8
AT_ONCE = 2
"""A quarter of a minute's."""

WAIT_S = 7.5
TOLD = {"retryable": True, "retry_after_ms": 7_500}


def told(said: Json) -> Json:
    return {name: said[name] for name in TOLD}


async def opens(gateway: Gateway) -> None:
    """See that a handshake is let pass."""
    async with gateway.tab():
        pass


# Handshakes


async def test_an_address_may_shake_hands_so_often_and_is_then_told_when_to_come_back(
    served_limited: Begin,
) -> None:
    async with (
        served_limited(handshakes_per_minute=RATE, sessions_per_minute=0) as gateway,
        visit(gateway, address=HERE) as visitor,
        visit(gateway, address=THERE) as other,
    ):
        clock = stop_time(gateway)
        for _ in range(AT_ONCE):
            await opens(visitor)
        refused = await denied(visitor)
        assert told(problem(refused, 429, "rate_limited")) == TOLD
        assert retry_after(refused) == "8"
        await opens(other)
        clock.move(WAIT_S)
        await opens(visitor)
        assert (await denied(visitor)).status_code == 429


async def test_to_be_refused_for_other_reasons_is_a_handshake_too_and_to_be_late_is_none(
    served_limited: Begin,
) -> None:
    limits = {"handshakes_per_minute": RATE, "api_keys": KEYS}
    async with served_limited(**limits) as gateway, visit(gateway, address=HERE) as visitor:
        clock = stop_time(gateway)
        socket: AsyncWebSocketSession
        for _ in range(AT_ONCE):
            async with aconnect_ws("/ws", visitor.http, headers={"Authorization": "x"}) as socket:
                assert (await last_words(socket))[1] == 4500
        for _ in range(5):
            assert (await denied(visitor)).status_code == 429
        clock.move(WAIT_S)
        async with silent(visitor):
            pass


async def test_a_page_that_may_not_connect_at_all_uses_up_nobodys_handshakes(
    served_limited: Begin,
) -> None:
    async with (
        served_limited(handshakes_per_minute=1) as gateway,
        visit(gateway, address=HERE) as visitor,
    ):
        stop_time(gateway)
        for _ in range(3):
            assert (await denied(visitor, Origin="https://evil.example")).status_code == 403
        await opens(visitor)


@pytest.mark.parametrize("rate", [7, 59])
async def test_who_comes_back_after_exactly_the_wait_it_was_told_may_shake_hands(
    served_limited: Begin, rate: int
) -> None:
    async with (
        served_limited(handshakes_per_minute=rate, sessions_per_minute=0) as gateway,
        visit(gateway, address=HERE) as visitor,
    ):
        clock = stop_time(gateway)
        for _ in range(-(-rate // 4)):
            await opens(visitor)
        refused = problem(await denied(visitor), 429, "rate_limited")
        clock.move(refused["retry_after_ms"] / 1_000)
        await opens(visitor)


async def test_requests_are_no_handshakes(limited: Begin) -> None:
    async with limited(handshakes_per_minute=1) as gateway, visit(gateway, address=HERE) as visitor:
        for _ in range(5):
            assert (await visitor.http.get("/api/health")).status_code == 200
        await opens(visitor)


async def test_who_comes_from_this_machine_may_shake_hands_as_often_as_it_likes(
    limited: Begin,
) -> None:
    async with limited(handshakes_per_minute=1) as gateway:
        stop_time(gateway)
        for _ in range(5):
            await opens(gateway)


# Sessions


async def test_somebody_may_begin_so_many_sessions_in_a_minute_on_all_transports_together(
    limited: Begin,
) -> None:
    async with (
        limited(sessions_per_minute=RATE, api_keys=KEYS) as gateway,
        visit(gateway, key=ALICE) as alice,
        visit(gateway, key=BOB) as bob,
    ):
        clock = stop_time(gateway)
        async with alice.tab() as tab:
            await alice.new_session()
        for _ in range(2):
            await no_session_yet(alice)
        await opens(bob)
        async with alice.tab(tab.session_id) as again:
            assert again.ready["created"] is False
        clock.move(WAIT_S)
        await opens(alice)
        await no_session_yet(alice)
        clock.move(WAIT_S)
        await alice.new_session()
        assert gateway.rows("SELECT count(*) FROM sessions") == [(5,)]


async def no_session_yet(visitor: Gateway) -> None:
    """See that a visitor begins no session, on any transport, and is told when it may."""
    refused = await visitor.http.post("/api/sessions", json={})
    assert told(problem(refused, 429, "rate_limited")) == TOLD
    assert retry_after(refused) == "8"
    error, code = await turned_away(visitor)
    assert (error["code"], code) == ("rate_limited", 4003)
    assert told(error) == TOLD


async def test_who_is_anonymous_begins_the_sessions_of_its_address(limited: Begin) -> None:
    async with (
        limited(sessions_per_minute=1) as gateway,
        visit(gateway, address=HERE) as visitor,
        visit(gateway, address=THERE) as other,
    ):
        stop_time(gateway)
        await opens(visitor)
        assert (await turned_away(visitor))[1] == 4003
        await opens(other)
        for _ in range(3):
            await opens(gateway)


async def test_somebody_gets_so_many_tickets_in_a_minute(limited: Begin) -> None:
    async with (
        limited(handshakes_per_minute=RATE, api_keys=KEYS) as gateway,
        visit(gateway, key=ALICE) as alice,
        visit(gateway, key=BOB) as bob,
    ):
        clock = stop_time(gateway)
        for _ in range(AT_ONCE):
            assert (await alice.http.post("/api/tickets")).status_code == 201
        refused = await alice.http.post("/api/tickets")
        assert told(problem(refused, 429, "rate_limited")) == TOLD
        assert (await bob.http.post("/api/tickets")).status_code == 201
        clock.move(WAIT_S)
        assert (await alice.http.post("/api/tickets")).status_code == 201


async def test_a_session_that_cannot_be_made_is_not_counted(limited: Begin) -> None:
    async with (
        limited(sessions_per_minute=1, api_keys=KEYS) as gateway,
        visit(gateway, key=ALICE) as alice,
    ):
        stop_time(gateway)
        for body in ({"metadata": 1}, {"metadata": {"k": "x" * 20_000}}):
            assert (await alice.http.post("/api/sessions", json=body)).status_code == 422
        await opens(alice)


# Messages


@pytest.fixture
async def alice(limited: Begin, model: ScriptedModel) -> AsyncIterator[Gateway]:
    """A gateway as Alice sees it, who may ask twice at once; its model always has an answer."""
    model.autoreply(lambda messages: ["네"])
    limits = {"messages_per_minute": RATE, "llm_max_concurrency": 8, "api_keys": KEYS}
    async with limited(**limits) as gateway, visit(gateway, key=ALICE) as alice:
        yield alice


@pytest.fixture
def clock(alice: Gateway) -> Clock:
    return stop_time(alice)


async def test_somebody_may_ask_so_often_in_all_sessions_together(
    alice: Gateway, clock: Clock
) -> None:
    async with alice.tab() as first, alice.tab() as second, alice.tab() as third:
        await first.chat("안녕")
        await second.chat("안녕")
        for _ in range(2):
            error = await third.refused(type="chat", message="안녕", request_id="r1")
            assert (error["code"], error["request_id"]) == ("rate_limited", "r1")
            assert told(error) == TOLD
            assert "turn" not in error
        clock.move(WAIT_S)
        # Refused, it did not use its id up.
        accepted = await third.chat("안녕", request_id="r1")
        assert (accepted["turn"], accepted["duplicate"]) == (1, False)
        await third.ends()
        assert (await third.refused(type="regenerate"))["code"] == "rate_limited"


async def test_over_http_too_one_may_ask_so_often(alice: Gateway, clock: Clock) -> None:
    body = {"session_id": await alice.new_session(), "message": "안녕"}
    assert (await alice.http.post("/api/chat", json=body)).status_code == 200
    assert (await alice.http.post("/api/chat/stream", json=body)).status_code == 200
    for path in ("/api/chat", "/api/chat/stream"):
        refused = await alice.http.post(path, json=body | {"request_id": "r1"})
        assert told(problem(refused, 429, "rate_limited")) == TOLD
        assert retry_after(refused) == "8"
    clock.move(WAIT_S)
    answer = await alice.http.post("/api/chat", json=body | {"request_id": "r1"})
    assert (answer.status_code, answer.json()["turn"]) == (200, 3)


async def test_a_repeat_is_recognised_though_nothing_may_be_asked(
    alice: Gateway, clock: Clock
) -> None:
    async with alice.tab() as tab:
        for request_id in ("r1", "r2"):
            await tab.chat("안녕", request_id=request_id)
            await tab.next("complete")
        assert (await tab.refused(type="chat", message="안녕"))["code"] == "rate_limited"
        repeated = await tab.chat("안녕", request_id="r1")
        assert (repeated["turn"], repeated["duplicate"]) == (1, True)
        other = await tab.refused(type="chat", message="다른", request_id="r1")
        assert other["code"] == "request_id_conflict"
        asked = {"session_id": tab.session_id, "message": "안녕", "request_id": "r2"}
        answer = await alice.http.post("/api/chat", json=asked)
        assert (answer.status_code, answer.json()["turn"]) == (200, 2)


async def test_what_one_asks_is_nobody_elses_and_what_is_no_message_is_not_counted(
    alice: Gateway, clock: Clock
) -> None:
    async with visit(alice, key=BOB) as bob, bob.tab() as of_bob, alice.tab() as tab:
        for _ in range(5):
            await tab.settle()
            await tab.history()
            assert (await tab.refused(type="cancel"))["code"] == "nothing_to_cancel"
            too_many = await tab.refused(type="chat", message="안녕", max_new_tokens=8_193)
            assert too_many["code"] == "bad_frame"
        for turn in range(1, AT_ONCE + 1):
            assert (await tab.chat("안녕"))["turn"] == turn
            await tab.ends(turn)
        assert (await tab.refused(type="chat", message="안녕"))["code"] == "rate_limited"
        await of_bob.chat("안녕")


async def test_who_is_anonymous_asks_as_its_address(limited: Begin, model: ScriptedModel) -> None:
    model.autoreply(lambda messages: ["네"])
    async with (
        limited(messages_per_minute=1) as gateway,
        visit(gateway, address=HERE) as visitor,
        visit(gateway, address=THERE) as other,
        visitor.tab() as tab,
        other.tab() as elsewhere,
        gateway.tab() as here,
    ):
        stop_time(gateway)
        await tab.chat("안녕")
        await tab.ends()
        assert (await tab.refused(type="chat", message="안녕"))["code"] == "rate_limited"
        await elsewhere.chat("안녕")
        for turn in (1, 2, 3):
            await here.chat("안녕")
            await here.ends(turn)
