"""Who runs a turn, where many nodes share a database."""

from dataclasses import replace

import pytest

from storage import leases, sessions, turns
from storage.claims import Claim
from storage.leases import Lease, StopAsked
from storage.turns import StoredTurn
from tests.storage.store import Store, turn_end


def ask(store: Store, node: str = "north") -> StoredTurn:
    return store.ask(node=node)


def lapse(store: Store, turn: StoredTurn) -> None:
    """Let time pass until the lease of a turn is over."""
    store.write(leases.let_go(turn.session_id, turn.turn, attempt=turn.attempt))


def held(store: Store, node: str) -> list[Lease]:
    return store.write(leases.renew(node))


def take_up(store: Store, turn: StoredTurn, node: str) -> StoredTurn | None:
    return store.write(turns.take_up(turn, node=node))


def test_a_node_has_the_leases_of_the_turns_it_accepted(store: Store) -> None:
    turn = ask(store)
    assert turn.node == "north"
    assert held(store, "north") == [Lease("s1", 1, 1, None)]
    assert held(store, "south") == []


def test_a_turn_whose_lease_is_kept_is_nobody_elses(store: Store) -> None:
    turn = ask(store)
    assert store.read(turns.lapsed(most=10)) == []
    assert take_up(store, turn, "south") is None
    assert held(store, "north") == [Lease("s1", 1, 1, None)]


def test_a_turn_whose_lease_has_lapsed_is_another_nodes_next_attempt(store: Store) -> None:
    turn = ask(store)
    lapse(store, turn)
    [found] = store.read(turns.lapsed(most=10))
    taken = take_up(store, found, "south")
    assert taken is not None
    assert (taken.attempt, taken.node) == (2, "south")
    assert held(store, "north") == []
    assert held(store, "south") == [Lease("s1", 1, 2, None)]
    assert take_up(store, found, "west") is None, "somebody was quicker"


def test_a_lease_that_lapsed_and_was_renewed_in_time_is_kept(store: Store) -> None:
    turn = ask(store)
    store.execute("UPDATE leases SET expires_at = 1")
    held(store, "north")
    assert take_up(store, turn, "south") is None


def test_a_turn_that_was_let_go_is_not_renewed_by_its_node_which_may_live_on(store: Store) -> None:
    turn = ask(store)
    store.write(turns.leave(turn, "half of"))
    assert held(store, "north") == []
    assert take_up(store, turn, "south") is not None


def test_who_lost_a_turn_stores_nothing_of_it_any_more(store: Store) -> None:
    turn = ask(store)
    lapse(store, turn)
    taken = take_up(store, turn, "south")
    assert taken is not None
    store.write(turns.checkpoint(turn, "stale"))
    store.write(turns.leave(turn, "stale"))
    assert not store.end(turn, "stale")
    assert held(store, "south") == [Lease("s1", 1, 2, None)], "nor does it let go of it"
    assert store.end(taken, "fresh")
    assert not store.end(turn, "stale")
    assert store.rows("SELECT content FROM messages WHERE role = 'assistant'") == [("fresh",)]


def test_a_turn_that_is_left_is_anybodys_at_once_with_its_text(store: Store) -> None:
    turn = ask(store)
    store.write(turns.leave(turn, "half of"))
    [found] = store.read(turns.lapsed(most=10))
    assert found.checkpoint == "half of"
    assert take_up(store, found, "south") is not None


def test_an_open_turn_without_a_lease_is_anybodys(store: Store) -> None:
    turn = store.ask()
    assert turn.node is None
    taken = take_up(store, turn, "south")
    assert taken is not None
    assert held(store, "south") == [Lease("s1", 1, 2, None)]


def test_what_was_left_on_purpose_is_told_from_what_has_lapsed(store: Store) -> None:
    turn = ask(store)
    store.execute("UPDATE leases SET expires_at = 1")
    assert store.read(turns.left(most=10)) == []
    assert len(store.read(turns.lapsed(most=10))) == 1
    store.write(turns.leave(turn, "half of"))
    assert len(store.read(turns.left(most=10))) == 1


def test_only_so_many_lapsed_turns_are_listed_at_once(store: Store) -> None:
    for number in range(3):
        store.session(f"s{number + 2}")
        lapse(store, store.ask(session_id=f"s{number + 2}", node="north"))
    assert len(store.read(turns.lapsed(most=2))) == 2


def test_a_lease_ends_with_its_turn(store: Store) -> None:
    turn = ask(store)
    assert store.end(turn)
    assert store.rows("SELECT * FROM leases") == []


def test_a_lease_goes_with_its_session(store: Store) -> None:
    ask(store)
    store.write(sessions.remove(Claim("s1")))
    assert store.rows("SELECT * FROM leases") == []


@pytest.mark.parametrize("named", [None, 1])
def test_any_node_may_ask_for_a_turn_to_stop(store: Store, named: int | None) -> None:
    ask(store)
    assert store.write(leases.ask_to_stop("s1", named, why="cancelled")) == 1
    assert held(store, "north") == [Lease("s1", 1, 1, "cancelled")]


@pytest.mark.parametrize("named", [None, 2])
def test_what_is_not_open_cannot_be_asked_to_stop(store: Store, named: int | None) -> None:
    turn = ask(store)
    if named is None:
        store.end(turn)
    assert store.write(leases.ask_to_stop("s1", named, why="cancelled")) is None


def test_a_turn_that_was_to_stop_ends_in_no_other_way(store: Store) -> None:
    turn = ask(store)
    store.write(leases.ask_to_stop("s1", None, why="cancelled"))
    with pytest.raises(StopAsked):
        store.end(turn)
    assert store.read(turns.lapsed(most=10)) == [], "nothing of that end is stored"
    assert held(store, "north") != []
    assert store.end(turn, "half", status="cancelled", finish_reason="cancelled")


def test_who_takes_up_a_turn_learns_that_it_was_to_stop(store: Store) -> None:
    turn = ask(store)
    store.write(leases.ask_to_stop("s1", None, why="cancelled"))
    lapse(store, turn)
    taken = take_up(store, turn, "south")
    assert taken is not None
    assert taken.legacy.stop == "cancelled"


def test_what_is_handed_over_on_purpose_is_counted_and_what_lapses_is_not(store: Store) -> None:
    turn: StoredTurn | None = ask(store)
    for node, handed_over in (("south", 1), ("west", 2)):
        assert turn is not None
        store.write(turns.leave(turn, "half of"))
        turn = take_up(store, turn, node)
        assert turn is not None
        assert turn.legacy.handed_over == handed_over
    store.execute("UPDATE leases SET expires_at = 0")
    assert turn is not None
    turn = take_up(store, turn, "north")
    assert turn is not None
    assert (turn.attempt, turn.legacy.handed_over) == (4, 2)


def test_to_end_a_turn_again_in_the_very_same_way_is_to_have_ended_it(store: Store) -> None:
    # The answer to the first commit was lost on the way.
    turn = ask(store)
    end = turn_end(turn, "안녕하세요!")
    assert store.write(turns.end(turn, end))
    assert store.write(turns.end(turn, end))
    assert not store.write(turns.end(turn, replace(end, event=turn_end(turn, "no").event)))
    assert len(store.rows("SELECT * FROM messages WHERE role = 'assistant'")) == 1
