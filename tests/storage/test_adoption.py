"""A database of the original backend is adopted, and its conversations go on.

A file of SQLite, which is all that the original wrote to.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.errors import Refusal
from storage import log, messages, sessions
from storage.claims import Claim
from storage.context import Exchange, context
from storage.migrations import MIGRATIONS, migrate
from storage.sqlite_file import open_sqlite
from storage.times import age_s
from tests.storage.original import Original


@pytest.fixture
def original() -> Iterator[Original]:
    original = Original()
    yield original
    original.connection.close()


def test_the_original_tables_stay_as_they_were_declared(original: Original) -> None:
    declared = "SELECT name, sql FROM sqlite_master WHERE name IN ('sessions', 'messages')"
    before = original.rows(declared)
    original.adopt()
    assert original.rows(declared) == before


def test_questions_and_replies_become_turns(original: Original) -> None:
    for role in ("user", "assistant", "user", "assistant"):
        original.said(role)
    original.adopt()
    assert original.places() == [("u0", 1, 0), ("a1", 1, 1), ("u2", 2, 0), ("a3", 2, 1)]
    frames = original.log()
    assert [frame["type"] for frame in frames] == ["start", "token", "complete"] * 2
    assert frames[1]["content"] == "a1"
    assert (frames[2]["finish_reason"], frames[2]["total_tokens"]) == ("stop", 1)
    assert [message.finish_reason for message in original.page().messages] == [None, "stop"] * 2


def test_a_question_without_a_reply_was_interrupted(original: Original) -> None:
    original.said("user")
    original.said("user")
    original.said("assistant")
    original.adopt()
    assert original.places() == [("u0", 1, 0), ("u1", 2, 0), ("a2", 2, 1)]
    start, error, *_ = original.log()
    assert (start["type"], error["type"], error["id"]) == ("start", "error", "1.1.end")
    assert (error["code"], error["retryable"]) == ("interrupted", True)
    assert original.read(context("s1", 3, most=10, max_chars=1_000)) == [Exchange("u1", "a2")]


def test_what_is_said_before_any_question_belongs_to_no_turn(original: Original) -> None:
    for role in ("system", "assistant", "user", "assistant"):
        original.said(role)
    original.adopt()
    assert original.places() == [("s0", 0, 2), ("a1", 0, 3), ("u2", 1, 0), ("a3", 1, 1)]
    shown = original.page()
    assert [message.turn for message in shown.messages] == [None, None, 1, 1]
    assert [message.role for message in shown.messages][:2] == ["system", "assistant"]
    assert shown.total_count == 4


def test_a_second_reply_and_system_rows_are_shown_but_are_no_context(original: Original) -> None:
    for role in ("user", "system", "assistant", "assistant", "user", "assistant"):
        original.said(role)
    original.adopt()
    assert original.places() == [
        ("u0", 1, 0),
        ("a2", 1, 1),
        ("s1", 1, 2),
        ("a3", 1, 3),
        ("u4", 2, 0),
        ("a5", 2, 1),
    ]
    shown = [(m.message_id, m.turn, m.finish_reason) for m in original.page().messages]
    assert shown == [
        ("u0", 1, None),
        ("a2", 1, "stop"),
        ("s1", None, None),
        ("a3", None, None),
        ("u4", 2, None),
        ("a5", 2, "stop"),
    ]
    assert original.read(context("s1", 9, most=10, max_chars=1_000)) == [
        Exchange("u4", "a5"),
        Exchange("u0", "a2"),
    ]


def test_messages_are_in_the_order_of_their_times(original: Original) -> None:
    original.said("assistant", message_id="second", at="2026-11-23T12:00:01.000001")
    original.said("user", message_id="first", at="2026-11-23T12:00:01.000000")
    original.adopt()
    assert original.places() == [("first", 1, 0), ("second", 1, 1)]


def test_messages_of_one_instant_keep_the_order_they_were_stored_in(original: Original) -> None:
    for name in ("z", "y", "x", "w"):
        role = "user" if name in "zx" else "assistant"
        original.said(role, message_id=name, at="2026-11-23T12:00:00")
    original.adopt()
    assert original.places() == [("z", 1, 0), ("y", 1, 1), ("x", 2, 0), ("w", 2, 1)]


@pytest.mark.usefixtures("in_seoul")
def test_local_times_become_utc(original: Original) -> None:
    original.said("user", at="2026-11-23T11:11:49.909775")
    original.said("assistant", at="2026-11-23T11:11:50")
    original.adopt()
    session = original.read(sessions.get(Claim("s1")))
    assert session.created_at == session.last_accessed == "2026-11-23T02:11:49.723604Z"
    question, reply = original.page().messages
    assert question.created_at == "2026-11-23T02:11:49.909775Z"
    assert reply.created_at == "2026-11-23T02:11:50.000000Z"
    start, _, complete = original.log()
    assert start["user_message"]["created_at"] == question.created_at
    assert complete["created_at"] == reply.created_at
    assert original.rows("SELECT created_at, ended_at FROM turns") == [
        (question.created_at, reply.created_at)
    ]


@pytest.mark.parametrize("unreadable", [None, "", "yesterday", 5, "0001-01-01T00:00:00"])
@pytest.mark.usefixtures("in_seoul")
def test_a_time_that_cannot_be_read_becomes_that_of_the_adoption(
    original: Original, unreadable: object
) -> None:
    original.has_session("s2", at=unreadable)
    original.said("user", at=unreadable, session_id="s2")
    original.adopt()
    assert age_s(original.read(sessions.get(Claim("s2"))).last_accessed) < 60
    [message] = original.page("s2").messages
    assert age_s(message.created_at) < 60


@pytest.mark.parametrize(
    ("stored", "usage"),
    [
        (None, None),
        (
            '{"prompt_tokens": 109, "total_tokens": 142}',
            {"prompt_tokens": 109, "total_tokens": 142},
        ),
        ("null", None),
        ("{oops", None),
        ("[1]", None),
        ("{}", None),
        ('{"total_tokens": "many"}', None),
        ('{"total_tokens": 1, "details": {"cached": 0}, "cost": 0.5}', {"total_tokens": 1}),
    ],
)
def test_token_usage_is_what_can_be_made_of_it(
    original: Original, stored: str | None, usage: dict[str, int] | None
) -> None:
    original.said("user")
    original.said("assistant", usage=stored)
    original.adopt()
    assert original.log()[-1]["token_usage"] == usage


@pytest.mark.parametrize("metadata", [None, "", "null", "{oops", "[1]"])
def test_metadata_that_makes_no_sense_stops_nothing(
    original: Original, metadata: str | None
) -> None:
    original.has_session("s2", metadata=metadata)
    original.adopt()
    assert original.read(sessions.get(Claim("s2"))).metadata == {}
    assert original.read(sessions.get(Claim("s1"))).metadata == {"user": "지혜"}


def test_an_empty_message_is_a_message(original: Original) -> None:
    original.said("user", "")
    original.said("assistant", "")
    original.adopt()
    assert [message.content for message in original.page().messages] == ["", ""]
    assert [frame["type"] for frame in original.log()] == ["start", "complete"]
    assert original.read(context("s1", 2, most=10, max_chars=1_000)) == []


def test_a_message_of_null_is_an_empty_one(original: Original) -> None:
    original.said("user")
    original.said("assistant")
    original.connection.execute("UPDATE messages SET content = NULL")
    original.adopt()
    assert [message.content for message in original.page().messages] == ["", ""]
    assert original.log()[0]["user_message"]["content"] == ""
    with pytest.raises(Refusal, match="blank"):
        original.ask(None, replaces=1)


@pytest.mark.parametrize("blank", ["", "   ", "\n"])
def test_a_blank_question_is_shown_and_is_no_context(original: Original, blank: str) -> None:
    original.said("user", blank)
    original.said("assistant")
    original.said("user")
    original.said("assistant")
    original.adopt()
    assert original.page().total_count == 4
    assert original.read(context("s1", 3, most=10, max_chars=1_000)) == [Exchange("u2", "a3")]


@pytest.mark.parametrize(
    ("stored", "content"),
    [
        ("CAST(X'41004200' AS TEXT)", "A\ufffdB\ufffd"),
        ("CAST(X'41FF42' AS TEXT)", "A\ufffdB"),
        ("CAST(X'41EDA08042' AS TEXT)", "A\ufffd\ufffd\ufffdB"),
    ],
    ids=["NUL", "no UTF-8", "a surrogate"],
)
def test_text_is_made_storable_so_that_offsets_mean_the_same_everywhere(
    original: Original, stored: str, content: str
) -> None:
    original.said("user")
    original.said("assistant")
    original.connection.execute(f"UPDATE messages SET content = {stored}")
    original.adopt()
    assert original.log()[1]["content"] == content
    last = f"1.1.{len(content)}"
    assert original.log()[1]["id"] == last
    assert original.read(log.join(Claim("s1"), last)).resumed
    assert not original.read(log.join(Claim("s1"), f"1.1.{len(content) + 1}")).resumed


def test_messages_whose_session_is_gone_are_left_alone(original: Original) -> None:
    original.said("user")
    original.said("user", session_id="deleted", at="2026-11-23T11:11:49")
    assert original.migrate() == list(MIGRATIONS)
    assert original.places() == [("u0", 1, 0)]
    assert original.rows("SELECT created_at FROM messages WHERE session_id = 'deleted'") == [
        ("2026-11-23T11:11:49",)
    ]
    with pytest.raises(Refusal):
        original.page("deleted")


def test_every_session_is_adopted_however_many_there_are(original: Original) -> None:
    for number in range(2_100):
        original.has_session(f"many-{number}")
    original.said("user", session_id="many-2099")
    original.adopt()
    assert original.rows("SELECT count(*) FROM sessions WHERE last_accessed LIKE '%Z'") == [
        (2_101,)
    ]
    assert original.page("many-2099").total_count == 1


def test_a_conversation_goes_on_where_it_stopped(original: Original) -> None:
    original.said("user", "안녕")
    original.said("assistant", "안녕하세요!")
    original.said("user", "질문만 있습니다")
    original.adopt()
    assert original.read(log.join(Claim("s1"), None)).cursor == (2, 1, 2**53)
    turn = original.exchange("계속", "네.")
    assert turn.turn == 3
    assert original.read(context("s1", 4, most=10, max_chars=1_000)) == [
        Exchange("계속", "네."),
        Exchange("안녕", "안녕하세요!"),
    ]
    edit = original.exchange(None, "다시, 안녕하세요!", replaces=1)
    assert edit.user_message.content == "안녕"
    assert [message.content for message in original.page().messages] == [
        "안녕",
        "다시, 안녕하세요!",
    ]
    original.write(sessions.remove(Claim("s1")))
    assert original.rows("SELECT count(*) FROM messages") == [(0,)]


async def test_a_file_of_the_original_opens(tmp_path: Path) -> None:
    path = tmp_path / "chatbot.db"
    original = Original(sqlite3.connect(path, isolation_level=None))
    original.said("user")
    original.said("assistant")
    original.connection.close()
    async with open_sqlite(path) as database:
        assert await migrate(database) == list(MIGRATIONS)
        page = await database.read(
            messages.page(Claim("s1"), limit=None, before=None, max_bytes=2**20)
        )
    assert [message.content for message in page.messages] == ["u0", "a1"]
