"""The history, page by page, as it stands at a place of the log."""

from collections.abc import Callable
from typing import Any

import pytest

from protocol.cursor import BEGINNING, END, Cursor
from protocol.errors import Refusal
from storage import messages
from storage.claims import Claim
from storage.messages import Page
from storage.turns import take_up
from tests.storage.store import Store

PLENTY = 2**20

Read = Callable[..., Page]


@pytest.fixture
def page(store: Store) -> Read:
    def read(**options: Any) -> Page:
        given = {"limit": None, "before": None, "max_bytes": PLENTY, **options}
        return store.read(messages.page(Claim("s1"), **given))

    return read


def ids(page: Page) -> list[str]:
    return [message.message_id for message in page.messages]


def three_exchanges(store: Store) -> None:
    for question in ("one", "two", "three"):
        store.exchange(question, f"{question}!")


def test_an_empty_session_has_an_empty_page(page: Read) -> None:
    assert page() == Page(messages=[], total_count=0, next_before=None, cursor=BEGINNING)


def test_messages_come_oldest_first_by_turn_and_the_question_first(
    store: Store, page: Read
) -> None:
    three_exchanges(store)
    shown = page()
    assert ids(shown) == ["q1", "r1", "q2", "r2", "q3", "r3"]
    assert (shown.total_count, shown.next_before, shown.cursor) == (6, None, Cursor(3, 1, END))


def test_a_message_says_where_it_belongs(store: Store, page: Read) -> None:
    store.end(store.ask("안녕"), "안녕하세요!", usage={"total_tokens": 9})
    question, reply = page().messages
    assert (question.role, question.content, question.turn) == ("user", "안녕", 1)
    assert (question.finish_reason, question.token_usage) == (None, None)
    assert (reply.role, reply.content, reply.turn) == ("assistant", "안녕하세요!", 1)
    assert (reply.finish_reason, reply.token_usage) == ("stop", {"total_tokens": 9})
    assert question.session_id == reply.session_id == "s1"
    assert question.created_at <= reply.created_at


def test_an_open_turn_shows_its_question_and_the_cursor_of_its_start(
    store: Store, page: Read
) -> None:
    store.exchange()
    turn = store.ask("open")
    assert ids(page()) == ["q1", "r1", "q2"]
    assert page().cursor == Cursor(2, 1, 0)
    store.write(take_up(turn))
    assert page().cursor == Cursor(2, 2, 0)


@pytest.mark.parametrize("limit", range(1, 8))
def test_pages_lead_back_to_the_beginning_without_gap_or_repeat(
    store: Store, page: Read, limit: int
) -> None:
    three_exchanges(store)
    seen: list[str] = []
    before = None
    for _ in range(10):
        shown = page(limit=limit, before=before)
        assert len(shown.messages) <= limit
        assert shown.total_count == 6
        seen = ids(shown) + seen
        if (before := shown.next_before) is None:
            break
    assert seen == ["q1", "r1", "q2", "r2", "q3", "r3"]


def test_the_limit_is_the_newest_so_many(store: Store, page: Read) -> None:
    three_exchanges(store)
    shown = page(limit=2)
    assert ids(shown) == ["q3", "r3"]
    assert shown.next_before == "q3"


def test_a_page_has_a_hundred_messages_unless_told_otherwise(store: Store, page: Read) -> None:
    for _ in range(51):
        store.exchange()
    shown = page()
    assert len(shown.messages) == messages.DEFAULT_MESSAGES == 100
    assert (shown.total_count, shown.next_before) == (102, "q2")


def test_before_the_first_message_there_is_nothing(store: Store, page: Read) -> None:
    three_exchanges(store)
    shown = page(before="q1")
    assert (ids(shown), shown.next_before) == ([], None)


@pytest.mark.parametrize("unknown", ["", "r9", "q1 ", "\0", "안"])
def test_before_an_unknown_message_is_refused(store: Store, page: Read, unknown: str) -> None:
    store.exchange()
    with pytest.raises(Refusal) as caught:
        page(before=unknown)
    assert caught.value.code == "message_not_found"


def test_a_message_of_another_session_is_unknown(store: Store, page: Read) -> None:
    store.session("s2")
    store.exchange(session_id="s2")
    with pytest.raises(Refusal) as caught:
        page(before="q1")
    assert caught.value.code == "message_not_found"
    assert ids(page()) == []


# Pages of bytes


@pytest.mark.parametrize("content", ["x", "안", "😀", "\n", '"', "\x01"])
def test_a_page_ends_before_it_is_too_large(store: Store, page: Read, content: str) -> None:
    for _ in range(4):
        store.exchange(content * 1_000, content * 1_000)
    [newest] = page(limit=1).messages
    limit = 3 * (len(newest.model_dump_json().encode()) + 200)
    shown = page(max_bytes=limit)
    assert len(shown.messages) == 2
    assert sum(len(message.model_dump_json().encode()) for message in shown.messages) <= limit
    assert shown.next_before == shown.messages[0].message_id
    assert shown.total_count == 8


def test_a_page_holds_one_message_however_large(store: Store, page: Read) -> None:
    store.exchange("x" * 32_000, "y" * 100_000)
    shown = page(max_bytes=1)
    assert (ids(shown), shown.next_before) == (["r1"], "r1")
    assert ids(page(max_bytes=1, before="r1")) == ["q1"]


# Replaced turns


def test_hidden_turns_are_neither_shown_nor_counted(store: Store, page: Read) -> None:
    three_exchanges(store)
    store.exchange("two, better", replaces=2)
    assert ids(page()) == ["q1", "r1", "q4", "r4"]
    assert page().total_count == 4


def test_hidden_turns_are_shown_when_asked_for_and_say_by_whom(store: Store, page: Read) -> None:
    three_exchanges(store)
    store.exchange("two, better", replaces=2)
    shown = page(include_replaced=True)
    assert [(m.message_id, m.replaced_by) for m in shown.messages] == [
        ("q1", None),
        ("r1", None),
        ("q2", 4),
        ("r2", 4),
        ("q3", 4),
        ("r3", 4),
        ("q4", None),
        ("r4", None),
    ]
    assert shown.total_count == 4


def test_one_may_page_on_from_a_message_that_was_hidden_meanwhile(store: Store, page: Read) -> None:
    three_exchanges(store)
    store.exchange("two, better", replaces=2)
    assert ids(page(before="q3")) == ["q1", "r1"]


# At a place of the log


@pytest.mark.parametrize(
    ("upto", "shown"),
    [
        (BEGINNING, ""),
        (Cursor(1, 1, 0), "q1"),
        (Cursor(1, 1, 3), "q1"),
        (Cursor(1, 1, END), "q1 r1"),
        (Cursor(2, 1, 0), "q1 r1 q2"),
        (Cursor(2, 1, END), "q1 r1 q2 r2"),
        # Turn 3 replaces turn 2, and so does whoever has seen its start know.
        (Cursor(3, 1, 0), "q1 r1 q3"),
        (Cursor(3, 1, 1), "q1 r1 q3"),
        (Cursor(3, 1, END), "q1 r1 q3 r3"),
        (Cursor(4, 1, 0), "q4"),
    ],
)
def test_nothing_is_shown_beyond_a_cursor_nor_hidden_by_what_lies_there(
    store: Store, page: Read, upto: Cursor, shown: str
) -> None:
    store.exchange("one")
    store.exchange("two")
    store.exchange("two, better", replaces=2)
    store.ask("one, better", replaces=1)
    found = page(upto=upto)
    assert ids(found) == shown.split()
    assert (found.total_count, found.cursor) == (len(shown.split()), upto)
    if shown:
        first = page(upto=upto, limit=1)
        assert ids(first) == shown.split()[-1:]
        assert ids(page(upto=upto, before=first.messages[0].message_id)) == shown.split()[:-1]


def test_before_a_message_beyond_the_cursor_is_all_up_to_the_cursor(
    store: Store, page: Read
) -> None:
    three_exchanges(store)
    assert ids(page(upto=Cursor(1, 1, END), before="r3")) == ["q1", "r1"]


# One reply


def test_the_reply_of_a_turn_is_found(store: Store) -> None:
    store.exchange()
    turn = store.ask("two")
    assert store.read(messages.reply(Claim("s1"), 2)) is None
    store.end(turn, "whole", status="cancelled", finish_reason="cancelled")
    found = store.read(messages.reply(Claim("s1"), 2))
    assert found is not None
    assert (found.message_id, found.content, found.turn) == ("r2", "whole", 2)
    assert found.finish_reason == "cancelled"
    assert store.read(messages.reply(Claim("s1"), 3)) is None


@pytest.mark.parametrize("stored", ["{oops", "[]", "5", "", "null"])
def test_token_usage_that_makes_no_sense_is_null(store: Store, page: Read, stored: str) -> None:
    store.exchange()
    store.execute("UPDATE messages SET token_usage = :stored", stored=stored)
    assert [message.token_usage for message in page().messages] == [None, None]
