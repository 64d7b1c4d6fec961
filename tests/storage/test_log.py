"""Where a cursor stands in the stored log, and what follows it."""

import json
from typing import Any

import pytest

from protocol.cursor import BEGINNING, END, Cursor
from protocol.errors import ErrorCode, Refusal
from protocol.server_frames import MAX_EVENT_CHARS, Error, Frame
from storage import log, turns
from storage.claims import Claim
from storage.log import PAGE_TURNS, Joined
from storage.turns import StoredTurn
from tests.storage.store import Store, turn_end

REPLY = "안녕하세요! 😀 저는 믿음입니다.\n"


def join(store: Store, after: str | None) -> Joined:
    return store.read(log.join(Claim("s1"), after))


def resumed(store: Store, after: str) -> str | None:
    """Where a client goes on that hands back a cursor; None where it has to start again."""
    joined = join(store, after)
    return str(joined.cursor) if joined.resumed else None


def read(store: Store, cursor: Cursor) -> list[Frame]:
    return store.read(log.read_after(Claim("s1"), cursor))


def said(frames: list[Frame]) -> list[dict[str, Any]]:
    return [json.loads(frame.text) for frame in frames]


def kinds(frames: list[Frame]) -> list[str]:
    return [frame.type for frame in frames]


def text(frames: list[Frame]) -> str:
    return "".join(frame["content"] for frame in said(frames) if frame["type"] == "token")


def taken_up(store: Store, turn: StoredTurn) -> StoredTurn:
    assert store.write(turns.take_up(turn))
    [found] = [each for each in store.read(turns.lapsed(most=100)) if each.turn == turn.turn]
    return found


# Joining


def test_an_empty_session_is_joined_at_its_beginning(store: Store) -> None:
    assert join(store, None) == Joined(BEGINNING, False, True, None, None)
    assert join(store, "0.0.end") == Joined(BEGINNING, True, True, None, None)


@pytest.mark.parametrize("after", [None, "0.0.end", "1.1.5", "0.0.0", "nonsense"])
def test_of_a_session_just_created_it_is_known_what_joining_would_find(
    store: Store, after: str | None
) -> None:
    assert log.joined_new(after) == join(store, after)


def test_an_unknown_session_cannot_be_joined(store: Store) -> None:
    with pytest.raises(Refusal) as caught:
        store.read(log.join(Claim("nobody"), None))
    assert caught.value.code == "session_not_found"


def test_without_a_cursor_one_joins_at_the_end(store: Store) -> None:
    store.exchange()
    store.exchange()
    assert join(store, None) == Joined(Cursor(2, 1, END), False, True, None, None)


@pytest.mark.parametrize("status", ["queued", "running"])
def test_without_a_cursor_one_joins_before_an_open_turn(store: Store, status: Any) -> None:
    store.ask(status=status)
    assert join(store, None) == Joined(BEGINNING, False, True, 1, status)
    [turn] = store.read(turns.lapsed(most=100))
    store.end(turn)
    store.ask(status=status)
    assert join(store, None) == Joined(Cursor(1, 1, END), False, True, 2, status)


@pytest.mark.parametrize(
    "after",
    ["0.0.end", "1.1.0", "1.1.1", f"1.1.{len(REPLY)}", "1.1.end", "2.1.0", "2.1.7", "2.1.end"],
)
def test_a_place_that_the_log_has_is_honoured(store: Store, after: str) -> None:
    store.exchange(reply=REPLY)
    store.exchange(reply="a reply")
    assert resumed(store, after) == after


@pytest.mark.parametrize(
    "after",
    [
        "",
        "nonsense",
        "1.1",
        "1.1.-1",
        "01.1.0",
        # There is no turn 0 but as the beginning.
        "0.0.0",
        "0.1.end",
        "0.1.0",
        # The future.
        "3.1.0",
        "3.1.end",
        "999999999.1.0",
        "1.2.0",
        "1.2.end",
        "2.999999999.end",
        # No attempt has this number.
        "1.0.0",
        "1.0.end",
        # Beyond an ended text.
        f"1.1.{len(REPLY) + 1}",
        "1.1.999999999999999",
        "2.1.1",
    ],
)
def test_a_place_that_the_log_does_not_have_is_as_if_not_given(store: Store, after: str) -> None:
    store.exchange(reply=REPLY)
    store.exchange(reply="")
    assert join(store, after) == join(store, None)


def test_of_an_open_turn_any_offset_may_come_but_not_its_end(store: Store) -> None:
    store.exchange()
    store.ask()
    assert resumed(store, "2.1.0") == "2.1.0"
    assert resumed(store, "2.1.999") == "2.1.999"
    assert resumed(store, "2.1.end") is None
    assert join(store, "2.1.5").open_turn == 2


def test_offsets_count_characters_not_bytes(store: Store) -> None:
    store.exchange(reply="😀" * 10)
    assert resumed(store, "1.1.10") == "1.1.10"
    assert resumed(store, "1.1.11") is None


@pytest.mark.parametrize("after", ["1.1.0", "1.1.57", "1.1.end"])
def test_a_cursor_of_an_older_attempt_leads_to_the_start_of_the_latest(
    store: Store, after: str
) -> None:
    turn = taken_up(store, store.ask())
    joined = join(store, after)
    assert joined.resumed
    assert joined.cursor == Cursor(1, 1, 0)
    store.end(turn, REPLY)
    frames = read(store, joined.cursor)
    assert kinds(frames) == ["start", "token", "complete"]
    assert said(frames)[0]["attempt"] == 2
    assert text(frames) == REPLY


def test_a_cursor_more_than_a_page_of_turns_behind_is_not_honoured(store: Store) -> None:
    for _ in range(PAGE_TURNS + 2):
        store.exchange()
    assert resumed(store, "2.1.end") == "2.1.end"
    assert resumed(store, "1.1.end") is None
    assert resumed(store, "0.0.end") is None


# Reading


def test_a_turn_is_told_by_start_text_and_end(store: Store) -> None:
    turn = store.exchange("안녕", REPLY, request_id="r")
    start, token, complete = said(read(store, BEGINNING))
    assert start == {
        "type": "start",
        "id": "1.1.0",
        "turn": 1,
        "attempt": 1,
        "message_id": turn.reply_message_id,
        "user_message": turn.user_message.model_dump(),
        "request_id": "r",
    }
    assert token == {
        "type": "token",
        "id": f"1.1.{len(REPLY)}",
        "turn": 1,
        "content": REPLY,
        "token_count": 4,
    }
    assert (complete["type"], complete["id"]) == ("complete", "1.1.end")


@pytest.mark.parametrize("offset", range(len(REPLY) + 1))
def test_after_an_offset_comes_exactly_the_rest_of_the_text(store: Store, offset: int) -> None:
    store.exchange(reply=REPLY)
    frames = read(store, Cursor(1, 1, offset))
    assert REPLY[:offset] + text(frames) == REPLY
    assert "start" not in kinds(frames)
    assert frames[-1].cursor == Cursor(1, 1, END)


def test_from_any_place_that_was_told_the_rest_is_the_same(store: Store) -> None:
    store.exchange("one", "x" * (MAX_EVENT_CHARS + 1))
    store.exchange("two", "")
    store.exchange("three", REPLY)
    whole = read(store, BEGINNING)
    for index, frame in enumerate(whole, start=1):
        assert frame.cursor is not None
        assert read(store, frame.cursor) == whole[index:]


def test_a_long_reply_is_told_in_several_events(store: Store) -> None:
    reply = "안" * (2 * MAX_EVENT_CHARS + 1)
    store.exchange(reply=reply)
    frames = read(store, BEGINNING)
    assert kinds(frames) == ["start", "token", "token", "token", "complete"]
    assert text(frames) == reply


def test_an_empty_reply_has_no_text(store: Store) -> None:
    store.exchange(reply="")
    assert kinds(read(store, BEGINNING)) == ["start", "complete"]


def test_replaced_turns_are_part_of_the_log(store: Store) -> None:
    store.exchange("one", "1")
    store.exchange("one, better", "1!", replaces=1)
    frames = said(read(store, BEGINNING))
    assert [(frame["type"], frame["turn"]) for frame in frames] == [
        *(("start", 1), ("token", 1), ("complete", 1)),
        *(("start", 2), ("token", 2), ("complete", 2)),
    ]
    assert frames[3]["replaces"] == 1
    assert "replaces" not in frames[0]


def test_the_log_ends_before_a_turn_that_is_open(store: Store) -> None:
    store.exchange()
    store.ask()
    assert read(store, Cursor(1, 1, END)) == []
    assert read(store, Cursor(2, 1, 0)) == []
    assert read(store, Cursor(1, 1, 3))[-1].cursor == Cursor(1, 1, END)


def test_at_the_end_nothing_follows(store: Store) -> None:
    assert read(store, BEGINNING) == []
    store.exchange()
    assert read(store, Cursor(1, 1, END)) == []


def test_many_turns_are_read_a_few_at_a_time(store: Store) -> None:
    for _ in range(25):
        store.exchange()
    cursor, seen, reads = BEGINNING, 0, 0
    while frames := read(store, cursor):
        assert frames[-1].cursor is not None
        cursor = frames[-1].cursor
        seen += kinds(frames).count("complete")
        reads += 1
    assert (seen, reads) == (25, 3)


def test_the_terminal_event_is_told_byte_by_byte_as_it_was_stored(store: Store) -> None:
    turn = store.ask()
    end = turn_end(turn, REPLY, usage={"total_tokens": 9})
    store.write(turns.end(turn, end))
    assert read(store, Cursor(1, 1, len(REPLY))) == [end.event]


def test_a_failure_ends_its_turn_as_an_error(store: Store) -> None:
    turn = store.ask()
    event = Error(
        id="1.1.end",
        turn=1,
        message_id=turn.reply_message_id,
        code=ErrorCode.UPSTREAM_STALLED,
        message="The model server fell silent.",
        retryable=True,
    ).frame()
    end = turn_end(turn, "안녕", status="failed", finish_reason="error", event=event)
    store.write(turns.end(turn, end))
    frames = read(store, BEGINNING)
    assert kinds(frames) == ["start", "token", "error"]
    assert frames[-1] == event


def test_a_client_that_had_text_of_a_lost_attempt_begins_the_reply_anew(store: Store) -> None:
    turn = taken_up(store, store.ask())
    store.end(turn, "new text")
    frames = read(store, Cursor(1, 1, 57))
    assert kinds(frames) == ["start", "token", "complete"]
    assert [str(frame.cursor) for frame in frames] == ["1.2.0", "1.2.8", "1.2.end"]


def test_an_offset_that_the_text_never_reached_is_followed_by_the_end(store: Store) -> None:
    turn = store.ask()
    assert resumed(store, "1.1.57") == "1.1.57"
    store.end(turn, "short")
    assert kinds(read(store, Cursor(1, 1, 57))) == ["complete"]


def test_long_replies_are_read_a_part_at_a_time(store: Store) -> None:
    # A reader holds what it has read until its client takes it.
    replies = [f"{turn}" * 150_000 for turn in range(3)]
    for reply in replies:
        store.exchange(reply=reply)
    cursor, parts = BEGINNING, []
    while part := read(store, cursor):
        assert len(text(part)) <= log._READ_CHARS
        parts.append(part)
        cursor = part[-1].cursor or cursor
    frames = [frame for part in parts for frame in part]
    assert len(parts) == 9
    assert text(frames) == "".join(replies)
    assert kinds(frames).count("complete") == kinds(frames).count("start") == 3
    assert [str(frame.cursor) for frame in frames if frame.type == "complete"] == [
        "1.1.end",
        "2.1.end",
        "3.1.end",
    ]
