"""The history a stretch at a time: none left out, none twice, as it stood in the beginning."""

from collections.abc import Callable
from typing import Any

import pytest

from protocol.errors import Refusal
from protocol.server_frames import StoredMessage
from storage import sessions, stretches
from storage.claims import Claim
from storage.operations import Operation, Row
from storage.placed import FIRST, LAST, Place
from storage.stretches import LOOKED_THROUGH, WRITTEN_OUT, Extent
from tests.storage.filled import filled
from tests.storage.store import SqliteStore, Store

CLAIM = Claim("s1")


def many(store: Store, count: int) -> list[str]:
    """Fill a session `many`; return the names of its messages."""
    store.write(filled("many", [(f"q{turn}", f"r{turn}") for turn in range(count)]))
    return [f"many-{role}{turn}" for turn in range(1, count + 1) for role in "qr"]


def extent(store: Store, *, replaced: bool = False) -> Extent:
    return store.read(stretches.begin_export(CLAIM, include_replaced=replaced))


def written(store: Store, extent: Extent, claim: Claim = CLAIM) -> list[StoredMessage]:
    """Read all stretches of an extent."""
    messages: list[StoredMessage] = []
    after: Place | None = FIRST
    while after is not None:
        stretch = store.read(stretches.newer(claim, extent, after=after))
        assert len(stretch.messages) <= WRITTEN_OUT
        messages += stretch.messages
        after = stretch.after
    return messages


def ids(messages: list[StoredMessage]) -> list[str]:
    return [message.message_id for message in messages]


def older(store: Store, claim: Claim) -> list[Row]:
    """Read all stretches, from the end to the beginning."""
    rows: list[Row] = []
    place = LAST
    while stretch := store.read(stretches.older(claim, place, include_replaced=False)):
        assert len(stretch) <= LOOKED_THROUGH
        rows += stretch
        place = Place.of(stretch[-1])
    return rows


@pytest.mark.parametrize("count", [0, 1, WRITTEN_OUT // 2, WRITTEN_OUT // 2 + 1, WRITTEN_OUT])
def test_an_export_holds_every_message_once(store: Store, count: int) -> None:
    names = many(store, count)
    claim = Claim("many")
    held = store.read(stretches.begin_export(claim, include_replaced=False))
    assert ids(written(store, held, claim)) == names


@pytest.mark.parametrize("count", [0, 1, LOOKED_THROUGH // 2, LOOKED_THROUGH // 2 + 1])
def test_a_search_sees_every_message_once_the_newest_first(store: Store, count: int) -> None:
    names = many(store, count)
    assert [row["message_id"] for row in older(store, Claim("many"))] == names[::-1]


def test_what_comes_after_the_beginning_of_an_export_is_not_in_it(store: Store) -> None:
    store.exchange()
    held = extent(store)
    store.exchange()
    assert ids(written(store, held)) == ["q1", "r1"]


def test_the_reply_of_a_turn_that_was_open_then_is_not_in_it(store: Store) -> None:
    turn = store.ask()
    held = extent(store)
    store.end(turn)
    assert ids(written(store, held)) == ["q1"]
    assert ids(written(store, extent(store))) == ["q1", "r1"]


def test_what_is_replaced_later_is_still_in_it(store: Store) -> None:
    store.exchange()
    held, with_replaced = extent(store), extent(store, replaced=True)
    store.exchange(replaces=1)
    assert ids(written(store, held)) == ["q1", "r1"]
    assert [m.replaced_by for m in written(store, with_replaced)] == [None, None]
    assert ids(written(store, extent(store))) == ["q2", "r2"]
    assert [
        (m.message_id, m.replaced_by) for m in written(store, extent(store, replaced=True))
    ] == [
        ("q1", 2),
        ("r1", 2),
        ("q2", None),
        ("r2", None),
    ]


def test_a_session_that_is_deleted_meanwhile_is_not_found(store: Store) -> None:
    held = extent(store)
    store.write(sessions.remove(CLAIM))
    for operation in (
        stretches.newer(CLAIM, held),
        stretches.older(CLAIM, LAST, include_replaced=False),
    ):
        with pytest.raises(Refusal, match="session"):
            store.read(operation)


def test_what_lies_far_from_an_end_costs_no_more_to_read(sqlite: SqliteStore) -> None:
    count = 2_000
    many(sqlite, count)
    claim, whole = Claim("many"), Extent(LAST, include_replaced=False)
    reads: dict[str, Callable[[int], Operation[Any]]] = {
        "older": lambda turn: stretches.older(claim, Place(turn, 0), include_replaced=False),
        "newer": lambda turn: stretches.newer(claim, whole, after=Place(turn, 0)),
    }
    for name, read in reads.items():
        near, far = (steps(sqlite, read(turn)) for turn in (500, 1_500))
        assert far == pytest.approx(near, rel=0.1), name


def steps(sqlite: SqliteStore, operation: Operation[Any]) -> int:
    """Run an operation; return how many steps SQLite's machine took for it, in hundreds."""
    ticks: list[None] = []
    sqlite.connection.set_progress_handler(lambda: ticks.append(None), 100)
    sqlite.read(operation)
    sqlite.connection.set_progress_handler(None, 0)
    return len(ticks)
