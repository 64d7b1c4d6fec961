"""Whose a session is: one condition in every query, so that foreign and missing look the same."""

from collections.abc import Callable
from typing import Any

import pytest

from gateway import visits
from protocol.cursor import BEGINNING
from protocol.errors import Refusal
from storage import log, messages, sessions, stretches, turns
from storage.claims import Claim
from storage.operations import Operation
from storage.placed import LAST
from storage.stretches import Extent
from tests.storage.store import Store

ALICE, BOB = "key:alice", "key:bob"

OPERATIONS: dict[str, Callable[[Store, Claim], Operation[Any]]] = {
    "get": lambda store, claim: sessions.get(claim),
    "touch": lambda store, claim: sessions.touch(claim),
    "remove": lambda store, claim: sessions.remove(claim),
    "page": lambda store, claim: messages.page(claim, limit=1, before=None, max_bytes=1_000),
    "reply": lambda store, claim: messages.reply(claim, 1),
    "begin a search": lambda store, claim: stretches.begin_search(claim, before=None),
    "search": lambda store, claim: stretches.older(claim, LAST, include_replaced=True),
    "begin an export": lambda store, claim: stretches.begin_export(claim, include_replaced=True),
    "export": lambda store, claim: stretches.newer(claim, Extent(LAST, include_replaced=True)),
    "join": lambda store, claim: log.join(claim, None),
    "resume": lambda store, claim: log.join(claim, "1.1.0"),
    "read": lambda store, claim: log.read_after(claim, BEGINNING),
    "accept": lambda store, claim: turns.accept(store.new_turn(claim=claim)),
    "regenerate": lambda store, claim: turns.accept(store.new_turn(None, claim=claim, replaces=1)),
    "stop": lambda store, claim: visits.ask_to_stop(claim, 1, stopping=True),
}


@pytest.fixture(autouse=True)
def owned(store: Store) -> None:
    """A session of Alice's, `hers`, beside that of nobody in particular, `s1`; each with a turn."""
    store.write(sessions.create("hers", {}, owner=ALICE))
    for session_id, owner in (("hers", ALICE), ("s1", None)):
        turn = store.write(turns.accept(store.new_turn(claim=Claim(session_id, owner))))
        store.end(turn)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(
    ("session_id", "owner"),
    [("hers", BOB), ("hers", None), ("s1", ALICE), ("nobody", ALICE), ("nobody", None)],
)
def test_what_is_another_ones_is_not_there(
    store: Store, name: str, session_id: str, owner: str | None
) -> None:
    before = store.rows("SELECT * FROM sessions")
    with pytest.raises(Refusal) as refused:
        store.write(OPERATIONS[name](store, Claim(session_id, owner)))
    assert refused.value.code == "session_not_found"
    assert store.rows("SELECT * FROM sessions") == before


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(("session_id", "owner"), [("hers", ALICE), ("s1", None)])
def test_what_is_ones_own_is_there(
    store: Store, name: str, session_id: str, owner: str | None
) -> None:
    store.write(OPERATIONS[name](store, Claim(session_id, owner)))


def test_a_repeat_is_no_repeat_for_somebody_else(store: Store) -> None:
    new = store.new_turn(claim=Claim("hers", ALICE), request_id="r1")
    store.end(store.write(turns.accept(new)))
    assert store.read(turns.find_repeat(new)) is not None
    foreign = store.new_turn(claim=Claim("hers", BOB), request_id="r1")
    assert store.read(turns.find_repeat(foreign)) is None


def test_a_use_by_somebody_else_is_no_use(store: Store) -> None:
    long_ago = "2020-01-01T00:00:00.000000Z"
    store.execute("UPDATE sessions SET last_accessed = :at", at=long_ago)
    store.write(sessions.note_use(Claim("hers", BOB)))
    assert store.rows("SELECT DISTINCT last_accessed FROM sessions") == [(long_ago,)]


def test_a_turn_knows_whose_it_is_whoever_finds_it(store: Store) -> None:
    asked = store.write(turns.accept(store.new_turn(claim=Claim("hers", ALICE))))
    [found] = store.read(turns.lapsed(most=10))
    assert asked.owner == found.owner == ALICE


def test_everybody_lists_what_is_theirs_the_newest_first(store: Store) -> None:
    for session_id, owner in (("b1", BOB), ("hers-2", ALICE), ("s2", None), ("hers-3", ALICE)):
        store.write(sessions.create(session_id, {"name": session_id}, owner=owner))

    def listed(owner: str | None) -> list[str]:
        found = store.read(sessions.owned(owner, limit=None, before=None))
        return [session.session_id for session in found.sessions]

    assert listed(ALICE) == ["hers-3", "hers-2", "hers"]
    assert listed(BOB) == ["b1"]
    assert listed(None) == ["s2", "s1"]
    assert listed("key:carol") == []


def test_a_list_comes_in_pages_without_a_gap_or_a_repeat(store: Store) -> None:
    names = ["hers", *(f"more-{number}" for number in range(6))]
    for name in names[1:]:
        store.write(sessions.create(name, {}, owner=ALICE))
    # Of one moment: then the id decides.
    store.execute("UPDATE sessions SET created_at = :at", at="2026-01-01T00:00:00.000000Z")
    seen: list[str] = []
    before: str | None = None
    while True:
        page = store.read(sessions.owned(ALICE, limit=3, before=before))
        seen += [session.session_id for session in page.sessions]
        assert len(page.sessions) <= 3
        if (before := page.next_before) is None:
            break
    assert seen == sorted(names, reverse=True)


def test_a_page_behind_somebody_elses_session_is_not_there(store: Store) -> None:
    with pytest.raises(Refusal) as refused:
        store.read(sessions.owned(BOB, limit=3, before="hers"))
    assert refused.value.code == "session_not_found"


def test_an_owner_has_as_many_sessions_as_it_may(store: Store) -> None:
    for number in range(2):
        store.write(sessions.create(f"more-{number}", {}, owner=ALICE, most=3))
    with pytest.raises(Refusal) as refused:
        store.write(sessions.create("one-too-many", {}, owner=ALICE, most=3))
    assert refused.value.code == "rate_limited"
    assert "3 sessions" in refused.value.message
    store.write(sessions.create("of-bob", {}, owner=BOB, most=3))
    store.write(sessions.remove(Claim("hers", ALICE)))
    store.write(sessions.create("room-again", {}, owner=ALICE, most=3))
    for number in range(5):  # nobody in particular is many
        store.write(sessions.create(f"s-{number}", {}, owner=None, most=3))
