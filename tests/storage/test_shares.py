"""An account's share of what can be open at once: counted where the turns are, and given back."""

import asyncio

import pytest

from protocol.errors import Refusal
from storage import sessions, turns
from storage.claims import Claim
from storage.migrations import migrate
from storage.postgres import open_postgres
from storage.shares import Share
from storage.turns import StoredTurn
from tests.storage.store import SqliteStore, Store

SHARE = Share("key:alice", most_open=3, most_queued=2)


def ask(store: Store, name: str, *, share: Share | None = SHARE, waits: bool = False) -> StoredTurn:
    """Begin a turn in a session of its own."""
    store.session(name)
    status = "queued" if waits else "running"
    return store.write(turns.accept(store.new_turn(claim=Claim(name), share=share, status=status)))


def refused(store: Store, name: str, *, share: Share = SHARE, waits: bool = False) -> str:
    with pytest.raises(Refusal) as caught:
        ask(store, name, share=share, waits=waits)
    assert caught.value.code == "rate_limited"
    assert store.rows("SELECT turn FROM turns WHERE session_id = :name", name=name) == []
    return caught.value.message


def test_as_many_are_open_as_may_be_and_not_one_more(store: Store) -> None:
    opened = [ask(store, f"a{number}") for number in range(3)]
    assert "3 messages open" in refused(store, "a3")
    store.end(opened[1])
    ask(store, "a4")
    refused(store, "a5")


def test_as_many_wait_as_may_and_not_one_more(store: Store) -> None:
    ask(store, "a1", waits=True)
    waits = ask(store, "a2", waits=True)
    assert "2 messages waiting" in refused(store, "a3", waits=True)
    store.end(waits)
    ask(store, "a4", waits=True)


def test_one_that_is_answered_waits_no_more(store: Store) -> None:
    for name in ("a1", "a2"):
        turn = ask(store, name, waits=True)
    refused(store, "a3", waits=True)
    store.execute(
        "UPDATE turns SET status = 'running' WHERE session_id = :name", name=turn.session_id
    )
    ask(store, "a4", waits=True)


def test_accounts_do_not_share_and_who_has_none_is_not_counted(store: Store) -> None:
    for number in range(3):
        ask(store, f"a{number}")
        ask(store, f"b{number}", share=Share("key:bob", 3, 2))
    for number in range(5):
        ask(store, f"n{number}", share=None)
    refused(store, "b3", share=Share("key:bob", 3, 2))


def test_a_limit_that_is_none_limits_nothing(store: Store) -> None:
    for number in range(5):
        ask(store, f"a{number}", share=Share("key:alice", None, 5), waits=True)
    refused(store, "a5", share=Share("key:alice", None, 5), waits=True)


@pytest.mark.parametrize("status", ["complete", "cancelled", "failed", "interrupted"])
def test_however_a_turn_ends_nothing_of_its_share_is_left(store: Store, status: str) -> None:
    store.end(ask(store, "a1"), status=status)
    assert store.rows("SELECT * FROM shares") == []


def test_a_turn_that_is_taken_up_keeps_its_share_and_gives_it_back(store: Store) -> None:
    ask(store, "a1")
    [lapsed] = store.read(turns.lapsed(most=10))
    taken = store.write(turns.take_up(lapsed))
    assert taken is not None
    assert store.rows("SELECT account FROM shares") == [("key:alice",)]
    store.end(taken)
    assert store.rows("SELECT * FROM shares") == []


def test_a_session_that_is_deleted_gives_its_share_back(store: Store) -> None:
    ask(store, "a1")
    store.write(sessions.remove(Claim("a1")))
    assert store.rows("SELECT * FROM shares") == []


def test_a_repeat_is_recognised_though_no_share_is_left(store: Store) -> None:
    store.session("a0")
    new = store.new_turn(claim=Claim("a0"), share=SHARE, request_id="r1")
    first = store.write(turns.accept(new))
    for number in range(1, 3):
        ask(store, f"a{number}")
    again = store.write(turns.accept(new))
    assert (again.turn, again.duplicate) == (first.turn, True)


async def test_many_at_once_on_many_connections_get_no_more_than_there_is(
    postgres_url: str, sqlite: SqliteStore
) -> None:
    async with open_postgres(postgres_url, connections=8) as database:
        await migrate(database)
        for number in range(16):
            await database.write(sessions.create(f"a{number}", {}))
        asked = [
            database.write(turns.accept(sqlite.new_turn(claim=Claim(f"a{number}"), share=SHARE)))
            for number in range(16)
        ]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(outcome, StoredTurn) for outcome in outcomes) == 3
    assert {type(outcome) for outcome in outcomes} == {StoredTurn, Refusal}


async def test_many_sessions_begun_at_once_are_no_more_than_there_may_be(postgres_url: str) -> None:
    async with open_postgres(postgres_url, connections=8) as database:
        await migrate(database)
        begun = [
            database.write(sessions.create(f"a{number}", {}, owner="key:alice", most=3))
            for number in range(16)
        ]
        outcomes = await asyncio.gather(*begun, return_exceptions=True)
    assert sum(not isinstance(outcome, Refusal) for outcome in outcomes) == 3
