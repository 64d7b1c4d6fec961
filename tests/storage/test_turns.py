"""A turn from its question to its end, and what becomes of it when things go wrong."""

import json
from dataclasses import replace
from typing import Any

import pytest

from protocol.errors import Refusal
from storage import turns
from storage.context import Exchange
from storage.context import context as read_context
from storage.operations import StorageError
from storage.times import age_s
from storage.turns import StoredTurn
from tests.storage.store import Store


def refused(store: Store, **options: Any) -> str:
    before = snapshot(store)
    with pytest.raises(Refusal) as caught:
        store.ask(**options)
    assert snapshot(store) == before, "a refused request stores nothing"
    return caught.value.code


def snapshot(store: Store) -> list[Any]:
    tables = ("sessions", "messages", "message_order", "turns")
    return [store.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables]


def hidden(store: Store) -> list[tuple[int, int | None]]:
    return store.rows("SELECT turn, replaced_by FROM turns ORDER BY turn")


def context(store: Store, turn: int, most: int = 10, max_chars: int = 1_000) -> list[Exchange]:
    return store.read(read_context("s1", turn, most=most, max_chars=max_chars))


# Accept


def test_a_message_becomes_the_next_turn(store: Store) -> None:
    first = store.exchange("one")
    second = store.ask("two", request_id="r", generation={"temperature": 0.5}, status="queued")
    assert (first.turn, second.turn) == (1, 2)
    assert (second.attempt, second.status, second.duplicate) == (1, "queued", False)
    assert second.user_message.content == "two"
    assert second.generation == {"temperature": 0.5}
    assert age_s(second.created_at) < 60
    assert store.rows("SELECT role, content FROM messages WHERE message_id = 'q2'") == [
        ("user", "two")
    ]


def test_turns_are_counted_by_session(store: Store) -> None:
    store.session("s2")
    store.exchange()
    assert store.ask(session_id="s2").turn == 1


def test_what_accept_returns_is_what_is_found_after_a_restart(store: Store) -> None:
    turn = store.ask("hi", request_id="r", generation={"max_new_tokens": 9}, status="queued")
    assert store.read(turns.lapsed(most=100)) == [turn]


def test_accepting_a_message_notes_that_the_session_is_used(store: Store) -> None:
    store.execute("UPDATE sessions SET last_accessed = '2020-01-01T00:00:00.000000Z'")
    store.ask()
    [[accessed]] = store.rows("SELECT last_accessed FROM sessions")
    assert age_s(accessed) < 60


def test_an_unknown_session_is_refused(store: Store) -> None:
    assert refused(store, session_id="nobody") == "session_not_found"


def test_one_turn_at_a_time(store: Store) -> None:
    turn = store.ask()
    assert refused(store, message="more") == "turn_in_progress"
    assert refused(store, message=None, replaces=1) == "turn_in_progress"
    store.end(turn)
    assert store.ask("more").turn == 2


def test_the_database_itself_allows_one_open_turn_by_session(store: Store) -> None:
    store.exchange()
    store.ask()
    with pytest.raises(StorageError, match=r"turns\.session_id|one_open_turn"):
        store.execute("UPDATE turns SET status = 'running'")


# Repeats


def test_a_repeat_is_the_same_turn(store: Store) -> None:
    first = store.ask("hi", request_id="r")
    again = store.ask("hi", request_id="r")
    assert again == replace(first, duplicate=True)
    assert len(store.rows("SELECT * FROM turns")) == 1


def test_a_repeat_finds_a_turn_that_is_over(store: Store) -> None:
    turn = store.exchange("hi", request_id="r")
    store.exchange("something else")
    again = store.ask("hi", request_id="r")
    assert (again.turn, again.status, again.duplicate) == (turn.turn, "complete", True)
    assert again.user_message == turn.user_message


def test_a_repeat_is_recognised_while_another_turn_is_open(store: Store) -> None:
    store.exchange("hi", request_id="r")
    store.ask("something else")
    assert store.ask("hi", request_id="r").turn == 1


def test_a_repeat_can_be_looked_for_without_storing_anything(store: Store) -> None:
    new = store.new_turn("hi", request_id="r")
    assert store.read(turns.find_repeat(new)) is None
    store.write(turns.accept(new))
    found = store.read(turns.find_repeat(store.new_turn("hi", request_id="r")))
    assert found is not None
    assert found.duplicate
    assert store.read(turns.find_repeat(store.new_turn("hi"))) is None


def test_the_same_id_with_different_content_is_a_conflict(store: Store) -> None:
    turn = store.ask("hi", request_id="r")
    assert refused(store, message="bye", request_id="r") == "request_id_conflict"
    store.end(turn)
    assert refused(store, message="hi", replaces=1, request_id="r") == "request_id_conflict"


def test_a_refused_request_does_not_use_up_its_id(store: Store) -> None:
    turn = store.ask()
    assert refused(store, message="more", request_id="r") == "turn_in_progress"
    store.end(turn)
    again = store.ask("something else", request_id="r")
    assert (again.turn, again.duplicate) == (2, False)


def test_the_same_id_in_another_session_is_another_turn(store: Store) -> None:
    store.session("s2")
    store.ask("hi", request_id="r")
    assert not store.ask("bye", session_id="s2", request_id="r").duplicate


# Replacing


def test_a_replacement_hides_everything_from_its_target_on(store: Store) -> None:
    for question in ("one", "two", "three"):
        store.exchange(question)
    edit = store.ask("two, better", replaces=2)
    assert (edit.turn, edit.replaces) == (4, 2)
    assert edit.user_message.content == "two, better"
    assert hidden(store) == [(1, None), (2, 4), (3, 4), (4, None)]


def test_what_is_hidden_stays_hidden_and_by_whom_it_was(store: Store) -> None:
    store.exchange("one")
    store.exchange("two")
    store.exchange("two, better", replaces=2)
    store.ask("one, better", replaces=1)
    assert hidden(store) == [(1, 4), (2, 3), (3, 4), (4, None)]


def test_an_edit_can_be_edited(store: Store) -> None:
    store.exchange("one")
    for edit in range(2, 5):
        store.exchange("better", replaces=edit - 1)
    assert hidden(store) == [(1, 2), (2, 3), (3, 4), (4, None)]


@pytest.mark.parametrize("target", [1, 3, 999_999_999])
def test_a_hidden_or_missing_target_is_not_found(store: Store, target: int) -> None:
    store.exchange("one")
    store.exchange("one, better", replaces=1)
    assert refused(store, replaces=target) == "turn_not_found"


def test_regenerating_asks_the_same_again_with_a_message_of_its_own(store: Store) -> None:
    first = store.exchange("one")
    store.exchange("two")
    again = store.ask(None, replaces=1)
    assert (again.turn, again.replaces) == (3, 1)
    assert again.user_message.content == "one"
    assert again.user_message.message_id != first.user_message.message_id


def test_zero_is_the_last_turn_that_is_not_hidden(store: Store) -> None:
    store.exchange("one")
    store.exchange("two")
    store.exchange("two, better", replaces=2)
    again = store.ask(None, replaces=0)
    assert (again.replaces, again.user_message.content) == (3, "two, better")


def test_nothing_can_be_asked_again_in_an_empty_session(store: Store) -> None:
    assert refused(store, message=None, replaces=0) == "turn_not_found"
    assert refused(store, message=None, replaces=1) == "turn_not_found"


# The end


def test_an_end_stores_the_reply_and_what_was_said_of_it(store: Store) -> None:
    turn = store.ask()
    store.write(turns.checkpoint(turn, "안녕"))
    assert store.end(turn, "안녕하세요! ", usage={"total_tokens": 9})
    assert store.rows("SELECT status, finish_reason, total_tokens, checkpoint FROM turns") == [
        ("complete", "stop", 1, None)
    ]
    [(role, content, usage)] = store.rows(
        "SELECT role, content, token_usage FROM messages WHERE message_id = :name",
        name=turn.reply_message_id,
    )
    assert (role, content, json.loads(usage)) == ("assistant", "안녕하세요! ", {"total_tokens": 9})


def test_even_an_empty_reply_has_its_row(store: Store) -> None:
    turn = store.ask()
    store.end(turn, "", status="cancelled", finish_reason="cancelled")
    assert store.rows("SELECT content FROM messages WHERE role = 'assistant'") == [("",)]
    assert store.read(turns.lapsed(most=100)) == []


def test_a_turn_ends_once(store: Store) -> None:
    turn = store.ask()
    assert store.end(turn, "one")
    before = snapshot(store)
    assert not store.end(turn, "two")
    assert snapshot(store) == before


def test_the_end_of_an_attempt_that_was_taken_over_stores_nothing(store: Store) -> None:
    stale = store.ask()
    assert store.write(turns.take_up(stale))
    before = snapshot(store)
    assert not store.end(stale, "too late")
    store.write(turns.checkpoint(stale, "too late"))
    assert snapshot(store) == before
    assert store.end(replace(stale, attempt=2), "in time")


def test_the_end_of_a_deleted_turn_stores_nothing(store: Store) -> None:
    turn = store.ask()
    store.execute("DELETE FROM turns")
    assert not store.end(turn)
    assert store.rows("SELECT * FROM messages WHERE role = 'assistant'") == []


# Taking up


def test_a_checkpoint_survives_a_crash(store: Store) -> None:
    turn = replace(store.ask(status="queued"), status="running")
    store.write(turns.checkpoint(turn, "안녕"))
    [found] = store.read(turns.lapsed(most=100))
    assert found == replace(turn, checkpoint="안녕")


def test_a_turn_is_taken_up_by_one_alone(store: Store) -> None:
    turn = store.ask()
    assert store.write(turns.take_up(turn))
    assert not store.write(turns.take_up(turn))
    [found] = store.read(turns.lapsed(most=100))
    assert (found.attempt, found.status) == (2, "queued")
    assert found.reply_message_id == turn.reply_message_id


def test_a_turn_that_is_over_is_not_taken_up(store: Store) -> None:
    turn = store.exchange()
    assert not store.write(turns.take_up(turn))


def test_the_open_turns_of_all_sessions_are_found(store: Store) -> None:
    store.session("s2")
    store.exchange()
    open_turns: list[StoredTurn] = [store.ask("one"), store.ask("two", session_id="s2")]
    assert store.read(turns.lapsed(most=100)) == open_turns


# Context


def test_the_context_holds_the_newest_exchanges_newest_first(store: Store) -> None:
    for number in range(1, 6):
        store.exchange(f"question {number}", f"reply {number}")
    assert context(store, 6, most=2) == [
        Exchange("question 5", "reply 5"),
        Exchange("question 4", "reply 4"),
    ]


@pytest.mark.parametrize(("max_chars", "kept"), [(5, 2), (4, 1), (2, 1), (1, 0), (0, 0)])
def test_the_context_ends_where_it_would_be_too_long(
    store: Store, max_chars: int, kept: int
) -> None:
    store.exchange("하", "a" * 100)
    store.exchange("나", "\U0001f600b")
    store.exchange("다", "3")
    found = context(store, 4, max_chars=max_chars)
    assert found == [Exchange("다", "3"), Exchange("나", "\U0001f600b")][:kept]


def test_the_context_of_a_turn_is_what_came_before_it(store: Store) -> None:
    store.exchange("one", "1")
    store.exchange("two", "2")
    store.ask("three")
    assert context(store, 2) == [Exchange("one", "1")]
    assert context(store, 3) == [Exchange("two", "2"), Exchange("one", "1")]
    assert context(store, 1) == []


def test_the_context_leaves_out_what_is_hidden(store: Store) -> None:
    store.exchange("one", "1")
    store.exchange("two", "2")
    store.ask("one, better", replaces=1)
    assert context(store, 3) == []


def test_the_context_keeps_partial_replies(store: Store) -> None:
    store.end(store.ask("one"), "1, 2,", status="cancelled", finish_reason="cancelled")
    store.end(store.ask("two"), "a, b,", status="failed", finish_reason="error")
    assert context(store, 3) == [Exchange("two", "a, b,"), Exchange("one", "1, 2,")]


@pytest.mark.parametrize(
    "blank", ["", " ", "\n", " \t\r\n ", "\u3000", "\xa0", "\u2028", "\x85", "\x1c"]
)
def test_a_blank_reply_is_no_context_and_takes_no_room_in_it(store: Store, blank: str) -> None:
    store.exchange("one", "1")
    store.exchange("two", blank)
    assert context(store, 3, most=1) == [Exchange("one", "1")]


@pytest.mark.parametrize("reply", [" 1", "\ufeff", "\u200b", "\n.\n"])
def test_what_only_looks_blank_is_context_as_it_is(store: Store, reply: str) -> None:
    store.exchange("one", reply)
    assert context(store, 2) == [Exchange("one", reply)]


def test_the_context_is_of_one_session(store: Store) -> None:
    store.session("s2")
    store.exchange("one", "1")
    assert store.read(read_context("s2", 2, most=10, max_chars=1_000)) == []
