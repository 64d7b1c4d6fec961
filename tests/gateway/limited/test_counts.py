"""How many may be there at once: connections of every kind, sessions, open turns."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import pytest

from tests.gateway.harness import Gateway, Tab, call_of
from tests.gateway.limited.visitors import (
    ALICE,
    BOB,
    HERE,
    HOLDERS,
    KEYS,
    THERE,
    Begin,
    Holder,
    an_event_stream,
    denied,
    empty,
    introduce,
    last_words,
    problem,
    replies_over_http,
    retry_after,
    silent,
    taken,
    turned_away,
    visit,
)
from tests.llm.scripted import ScriptedModel

SOON_S = "5"
holders = pytest.mark.parametrize("holder", HOLDERS, ids=lambda holder: holder.__name__)

# Connections: in all


@holders
async def test_the_last_seat_may_be_anybodys_and_then_nobody_else_finds_one(
    served_limited: Begin, model: ScriptedModel, holder: Holder
) -> None:
    async with (
        served_limited(max_connections=2, llm_max_concurrency=2) as gateway,
        gateway.tab() as tab,
    ):
        async with holder(gateway, model):
            await taken(gateway, 2)
            handshake = await denied(gateway)
            replies = await replies_over_http(gateway, tab.session_id)
            for refused in (handshake, *replies):
                told = problem(refused, 503, "queue_full")
                assert (told["retryable"], told["retry_after_ms"]) == (True, 5_000)
                assert told["detail"] == "Too many connections are open."
                assert retry_after(refused) == SOON_S
        await taken(gateway, 1)
        for other in HOLDERS:
            async with other(gateway, model):
                await taken(gateway, 2)
            await taken(gateway, 1)


async def test_how_it_is_can_be_asked_though_no_seat_is_left_and_nothing_else(
    limited: Begin,
) -> None:
    async with limited(max_connections=1) as gateway:
        async with gateway.tab() as tab:
            for public in ("/api/health", "/livez", "/readyz", "/metrics", "/", "/openapi.json"):
                assert (await gateway.http.get(public)).status_code == 200
            at = f"/api/sessions/{tab.session_id}"
            for method, path in (
                *(("GET", at), ("GET", f"{at}/messages"), ("HEAD", f"{at}/events")),
                *(("POST", "/api/sessions"), ("DELETE", at), ("POST", f"{at}/cancel")),
            ):
                assert (await gateway.http.request(method, path)).status_code == 503
        await empty(gateway)
        assert (await gateway.http.delete(at)).status_code == 204


# Connections: of one principal


@holders
async def test_who_has_all_the_connections_one_may_have_is_told_so_and_others_are_not_kept_back(
    served_limited: Begin, model: ScriptedModel, holder: Holder
) -> None:
    limits = {"max_connections_per_principal": 2, "llm_max_concurrency": 2, "api_keys": KEYS}
    async with (
        served_limited(**limits) as gateway,
        visit(gateway, key=ALICE) as alice,
        visit(gateway, key=BOB, address=HERE) as bob,
        alice.tab() as tab,
    ):
        async with holder(alice, model):
            await refused_for_what_it_has(alice, tab.session_id)
            own = await bob.new_session()
            async with bob.tab(), bob.tab():
                await refused_for_what_it_has(bob, own)
        await taken(gateway, 1)
        async with alice.tab():
            await taken(gateway, 2)


async def refused_for_what_it_has(visitor: Gateway, session_id: str) -> None:
    """See that a visitor gets no more connections, on any transport, and is told why."""
    error, code = await turned_away(visitor)
    assert (error["code"], code) == ("rate_limited", 4505)
    assert error["message"] == "Too many connections of yours are open; close one first."
    for refused in await replies_over_http(visitor, session_id):
        told = problem(refused, 429, "rate_limited")
        assert told["detail"] == error["message"]
        assert "retry_after_ms" not in told


async def test_who_says_only_in_a_frame_who_it_is_is_counted_then(limited: Begin) -> None:
    async with (
        limited(max_connections_per_principal=1, api_keys=KEYS) as gateway,
        silent(gateway) as first,
        silent(gateway) as second,
    ):
        await introduce(first, ALICE)
        await second.send_text(f'{{"type": "auth", "token": "{ALICE}"}}')
        error, code = await last_words(second)
        assert (error["code"], code) == ("rate_limited", 4505)
        await taken(gateway, 1)


async def test_a_name_that_all_anonymous_share_is_no_principal(limited: Begin) -> None:
    async with (
        limited(max_connections_per_principal=1) as gateway,
        gateway.tab(),
        gateway.tab(),
        gateway.tab(),
    ):
        await taken(gateway, 3)


# Connections: from one address


@holders
async def test_an_address_has_so_many_connections_and_another_one_its_own(
    served_limited: Begin, model: ScriptedModel, holder: Holder
) -> None:
    limits = {"max_connections_per_address": 2, "llm_max_concurrency": 2}
    async with (
        served_limited(**limits) as gateway,
        visit(gateway, address=HERE) as visitor,
        visit(gateway, address=THERE) as other,
        visitor.tab() as tab,
    ):
        async with holder(visitor, model):
            await refused_for_what_it_has(visitor, tab.session_id)
            async with other.tab(), other.tab():
                await refused_for_what_it_has(other, tab.session_id)
        await taken(gateway, 1)
        async with visitor.tab():
            await taken(gateway, 2)


async def test_an_address_is_counted_whoever_comes_from_it(limited: Begin) -> None:
    async with (
        limited(max_connections_per_address=2, api_keys=KEYS) as gateway,
        visit(gateway, key=ALICE, address=HERE) as alice,
        visit(gateway, key=BOB, address=HERE) as bob,
        alice.tab(),
        bob.tab(),
    ):
        for visitor in (alice, bob):
            assert (await turned_away(visitor))[1] == 4505
        async with visit(gateway, address=HERE) as nobody:
            assert (await turned_away(nobody))[1] == 4505


# Sockets that have not said who they are


async def test_so_many_may_be_silent_and_the_next_is_refused_until_one_speaks_or_goes(
    served_limited: Begin,
) -> None:
    async with (
        served_limited(max_unauthenticated=2, api_keys=KEYS) as gateway,
        silent(gateway) as first,
    ):
        async with silent(gateway):
            refused = await denied(gateway)
            assert (refused.status_code, retry_after(refused)) == (503, SOON_S)
            await introduce(first, ALICE)
            async with silent(gateway):
                assert (await denied(gateway)).status_code == 503
        await taken(gateway, 1)
        async with silent(gateway), silent(gateway):
            assert gateway.house.entrance.occupancy.unauthenticated == 2
            assert (await denied(gateway)).status_code == 503


async def test_the_silent_keep_nobody_back_whom_a_request_has_named(
    served_limited: Begin, model: ScriptedModel
) -> None:
    async with (
        served_limited(max_unauthenticated=1, api_keys=KEYS) as gateway,
        silent(gateway),
        visit(gateway, key=ALICE) as alice,
    ):
        for holder in HOLDERS:
            async with holder(alice, model):
                await taken(gateway, 2)
        await taken(gateway, 1)


async def test_where_nobody_has_to_say_who_they_are_nobody_is_silent(limited: Begin) -> None:
    async with (
        limited(max_unauthenticated=1) as gateway,
        silent(gateway),
        silent(gateway),
        silent(gateway),
    ):
        assert gateway.house.entrance.occupancy.unauthenticated == 0


# Sessions


async def test_somebody_has_so_many_sessions_and_room_for_another_when_one_is_deleted(
    limited: Begin,
) -> None:
    async with (
        limited(max_sessions=2, api_keys=KEYS) as gateway,
        visit(gateway, key=ALICE) as alice,
        visit(gateway, key=BOB) as bob,
    ):
        over_rest = await alice.new_session()
        async with alice.tab() as tab:
            await no_more_sessions(alice)
            async with alice.tab(over_rest), bob.tab():
                await bob.new_session()
                await no_more_sessions(bob)
            await alice.http.delete(f"/api/sessions/{over_rest}")
            async with alice.tab():
                await no_more_sessions(alice)
            await alice.http.delete(f"/api/sessions/{tab.session_id}")
            assert await tab.closed() == 4504
            await alice.new_session()
        assert gateway.rows("SELECT owner, count(*) FROM owners GROUP BY owner") == [
            ("key:alice", 2),
            ("key:bob", 2),
        ]


async def test_strangers_use_up_no_count_of_sessions_that_is_that_of_all(limited: Begin) -> None:
    settings = {"allow_anonymous": True, "default_owner": "key:alice", "max_sessions": 1}
    async with limited(api_keys=KEYS, **settings) as gateway:
        for address in (HERE, HERE, THERE):
            async with visit(gateway, address=address) as visitor:
                await visitor.new_session()


async def no_more_sessions(visitor: Gateway) -> None:
    """See that a visitor gets no other session, and is told how many it has."""
    error, code = await turned_away(visitor)
    # To come back would not help.
    assert (error["code"], code) == ("rate_limited", 4505)
    refused = await visitor.http.post("/api/sessions", json={})
    told = problem(refused, 429, "rate_limited")
    assert told["detail"] == error["message"]
    assert told["detail"] == "You have 2 sessions, and 2 is the most; delete one first."
    # Nobody can say when one will be deleted.
    assert retry_after(refused) is None
    assert "retry_after_ms" not in told


# Open turns


@asynccontextmanager
async def tabs_of(visitor: Gateway, count: int) -> AsyncIterator[list[Tab]]:
    """Open tabs, each on a session of its own."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(visitor.tab()) for _ in range(count)]


OPEN = "You have 2 messages open, which is the most; wait for a reply or cancel one."
QUEUED = (
    "You have 2 messages waiting for the model, which is the most; wait for a reply or cancel one."
)


async def test_somebody_has_so_many_open_turns_in_all_sessions_together(
    limited: Begin, model: ScriptedModel
) -> None:
    limits = {"max_open_turns": 2, "llm_max_concurrency": 8, "api_keys": KEYS}
    async with (
        limited(**limits) as gateway,
        visit(gateway, key=ALICE) as alice,
        visit(gateway, key=BOB) as bob,
        tabs_of(alice, 3) as (first, second, third),
        tabs_of(bob, 3) as of_bob,
    ):
        for tab in (first, second, *of_bob[:2]):
            await tab.chat("안녕", request_id="r1")
        for tab in (third, of_bob[2]):
            error = await tab.refused(type="chat", message="안녕", request_id="r1")
            assert (error["code"], error["message"]) == ("rate_limited", OPEN)
            assert (error["retryable"], error["request_id"]) == (True, "r1")
            assert "turn" not in error
        await second.send(type="cancel")
        assert (await second.ends())["finish_reason"] == "cancelled"
        again = await third.chat("안녕", request_id="r1")
        assert (again["turn"], again["duplicate"]) == (1, False)
        assert (await of_bob[2].refused(type="chat", message="안녕"))["code"] == "rate_limited"


async def test_over_http_too_no_more_turns_are_opened_than_one_may_have(
    limited: Begin, model: ScriptedModel
) -> None:
    limits = {"max_open_turns": 2, "llm_max_concurrency": 8, "api_keys": KEYS}
    async with (
        limited(**limits) as gateway,
        visit(gateway, key=ALICE) as alice,
        tabs_of(alice, 2) as tabs,
    ):
        for tab in tabs:
            await tab.chat("안녕", request_id="r1")
        body = {"session_id": await alice.new_session(), "message": "안녕"}
        for path in ("/api/chat", "/api/chat/stream"):
            refused = await alice.http.post(path, json=body)
            assert problem(refused, 429, "rate_limited")["detail"] == OPEN
            assert retry_after(refused) is None
        assert (await alice.messages(body["session_id"]))["messages"] == []
        await taken(gateway, 2)


async def test_a_turn_that_is_asked_again_and_one_that_is_asked_anew_are_open_turns_too(
    limited: Begin, model: ScriptedModel
) -> None:
    limits = {"max_open_turns": 1, "llm_max_concurrency": 8, "api_keys": KEYS}
    async with (
        limited(**limits) as gateway,
        visit(gateway, key=ALICE) as alice,
        tabs_of(alice, 2) as (first, second),
    ):
        await alice.exchange(first, model, "안녕", "네")
        await second.chat("안녕")
        for frame in ({"type": "regenerate"}, {"type": "chat", "message": "뭐", "replaces": 1}):
            assert (await first.refused(**frame))["code"] == "rate_limited"
        await (await call_of(model)).complete()
        await second.ends()
        await first.send(type="regenerate")
        assert (await first.next("accepted"))["turn"] == 2


async def test_a_repeat_is_recognised_though_no_other_turn_may_be_opened(
    limited: Begin, model: ScriptedModel
) -> None:
    limits = {"max_open_turns": 1, "llm_max_concurrency": 8, "api_keys": KEYS}
    async with (
        limited(**limits) as gateway,
        visit(gateway, key=ALICE) as alice,
        tabs_of(alice, 2) as (first, second),
    ):
        await first.chat("안녕", request_id="r1")
        assert (await second.refused(type="chat", message="안녕"))["code"] == "rate_limited"
        repeated = await first.chat("안녕", request_id="r1")
        assert (repeated["turn"], repeated["duplicate"]) == (1, True)
        other = await first.refused(type="chat", message="다른", request_id="r1")
        assert other["code"] == "request_id_conflict"


async def test_who_is_anonymous_has_the_open_turns_of_its_address(
    limited: Begin, model: ScriptedModel
) -> None:
    async with (
        limited(max_open_turns=1, llm_max_concurrency=8) as gateway,
        visit(gateway, address=HERE) as visitor,
        visit(gateway, address=THERE) as other,
        tabs_of(visitor, 2) as (first, second),
        tabs_of(gateway, 2) as of_this_machine,
        other.tab() as elsewhere,
    ):
        await first.chat("안녕")
        assert (await second.refused(type="chat", message="안녕"))["code"] == "rate_limited"
        for tab in (elsewhere, *of_this_machine):
            await tab.chat("안녕")


# Turns that wait for the model


async def test_somebody_has_so_many_turns_that_wait_and_room_after_a_cancel(
    limited: Begin, model: ScriptedModel
) -> None:
    limits = {"max_queued_turns": 2, "llm_max_concurrency": 1, "api_keys": KEYS}
    async with (
        limited(**limits) as gateway,
        visit(gateway, key=ALICE) as alice,
        visit(gateway, key=BOB) as bob,
        tabs_of(alice, 4) as (running, waits, behind, late),
        bob.tab() as of_bob,
    ):
        await running.chat("안녕")
        for tab in (waits, behind):
            assert (await tab.chat("안녕", request_id="r1"))["status"] == "queued"
        error = await late.refused(type="chat", message="안녕", request_id="r1")
        assert (error["code"], error["message"]) == ("rate_limited", QUEUED)
        assert (await waits.chat("안녕", request_id="r1"))["duplicate"] is True
        assert (await of_bob.chat("안녕"))["status"] == "queued"
        await waits.send(type="cancel")
        assert (await waits.ends())["finish_reason"] == "cancelled"
        assert (await late.chat("안녕", request_id="r1"))["status"] == "queued"
        assert (await waits.refused(type="chat", message="또"))["message"] == QUEUED


async def test_a_turn_that_is_being_answered_waits_no_more(
    limited: Begin, model: ScriptedModel
) -> None:
    limits = {"max_queued_turns": 1, "llm_max_concurrency": 1, "api_keys": KEYS}
    async with (
        limited(**limits) as gateway,
        visit(gateway, key=ALICE) as alice,
        tabs_of(alice, 3) as (first, second, third),
    ):
        await first.chat("안녕")
        await second.chat("안녕")
        assert (await third.refused(type="chat", message="안녕"))["code"] == "rate_limited"
        await (await call_of(model)).complete()
        await first.ends()
        await (await call_of(model)).say("네")
        await second.text_until("네")
        assert (await third.chat("안녕"))["status"] == "queued"


async def test_of_many_turns_asked_for_at_once_no_more_are_opened_than_may_be(
    limited: Begin, model: ScriptedModel
) -> None:
    limits = {"max_open_turns": 3, "llm_max_concurrency": 16, "api_keys": KEYS}
    async with (
        limited(**limits) as gateway,
        visit(gateway, key=ALICE) as alice,
        tabs_of(alice, 10) as tabs,
    ):
        async with anyio.create_task_group() as tasks:
            for tab in tabs:
                tasks.start_soon(ask, tab)
        answers = [tab.frames[0]["type"] for tab in tabs]
        assert sorted(answers) == ["accepted"] * 3 + ["error"] * 7


async def ask(tab: Tab) -> None:
    await tab.send(type="chat", message="안녕")
    await tab.next("accepted", "error")


async def test_who_has_no_seat_left_goes_on_asking_on_those_it_has(
    served_limited: Begin, model: ScriptedModel
) -> None:
    limits = {"max_connections_per_address": 2, "llm_max_concurrency": 8}
    async with (
        served_limited(**limits) as gateway,
        visit(gateway, address=HERE) as visitor,
        visitor.tab() as tab,
        an_event_stream(visitor, model),
    ):
        assert (await turned_away(visitor))[1] == 4505
        await visitor.exchange(tab, model, "안녕", "네")
