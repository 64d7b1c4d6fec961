"""Server frames as they stand on the wire: what is left out, what is null, how text is cut."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol.cursor import END, Cursor
from protocol.errors import ErrorCode
from protocol.server_frames import (
    MAX_EVENT_CHARS,
    Accepted,
    Complete,
    Error,
    Frame,
    History,
    Limits,
    OpenTurn,
    Pong,
    Queued,
    Ready,
    ServerFrame,
    ServerPing,
    Start,
    StoredMessage,
    Timing,
    Token,
    UserMessage,
    token_frame,
    token_frames,
)

AT = "2026-01-31T09:30:00.123456Z"
TIMING = Timing(queue_ms=0, first_token_ms=None, duration_ms=12)
CONTROL = "".join(map(chr, range(0x20))) + '"\\/\x7f\x80\x85\u2028\u2029\ufeff\ufffd\uffff'

storable_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


def said(frame: ServerFrame) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(frame.frame().text)
    return fields


def start(**options: Any) -> Start:
    question = UserMessage(message_id="m1", content="안녕", created_at=AT)
    return Start(id="7.1.0", turn=7, attempt=1, message_id="m2", user_message=question, **options)


def joined(frames: list[Frame]) -> str:
    return "".join(json.loads(frame.text)["content"] for frame in frames)


@settings(deadline=None)
@given(storable_text, st.integers(0, 10**9), st.integers(1, 999_999_999))
@example(CONTROL, 3, 7)
@example("안녕하세요! 👩\u200d👩\u200d👧 \U0010ffff", 3, 7)
def test_a_token_is_encoded_as_its_model_would_be(content: str, count: int, turn: int) -> None:
    cursor = Cursor(turn, 2, len(content))
    model = Token(id=str(cursor), turn=turn, content=content, token_count=count)
    assert token_frame(cursor, content, count) == model.frame()


@settings(deadline=None)
@given(storable_text, st.integers(0, 1_000))
@example(CONTROL, 5)
def test_a_short_text_is_one_token(text: str, behind: int) -> None:
    cursor = Cursor(7, 1, behind + len(text))
    expected = [token_frame(cursor, text, 9)] if text else []
    assert token_frames(cursor, text, 9) == expected


@pytest.mark.parametrize("length", [1, MAX_EVENT_CHARS - 1, MAX_EVENT_CHARS, MAX_EVENT_CHARS + 1])
@pytest.mark.parametrize("behind", [0, 1, 57, MAX_EVENT_CHARS])
@pytest.mark.parametrize("character", ["x", "안", "😀"])
def test_long_text_is_cut_into_events_that_join_to_it(
    character: str, behind: int, length: int
) -> None:
    text = character * (length - 1) + "!"
    frames = token_frames(Cursor(7, 1, behind + length), text, 10)
    assert joined(frames) == text
    assert len(frames) == -(-length // MAX_EVENT_CHARS)
    assert all(len(json.loads(frame.text)["content"]) <= MAX_EVENT_CHARS for frame in frames)


def test_the_cursor_of_each_event_lies_behind_its_text() -> None:
    text = "x" * (2 * MAX_EVENT_CHARS + 5)
    frames = token_frames(Cursor(7, 1, 100 + len(text)), text, 10)
    offset = 100
    for frame in frames:
        offset += len(json.loads(frame.text)["content"])
        assert frame.cursor == Cursor(7, 1, offset)
        assert json.loads(frame.text)["id"] == f"7.1.{offset}"


def test_the_count_grows_with_the_text_and_is_whole_at_its_end() -> None:
    text = "x" * (4 * MAX_EVENT_CHARS)
    frames = token_frames(Cursor(7, 1, len(text)), text, 1_000)
    assert [json.loads(frame.text)["token_count"] for frame in frames] == [250, 500, 750, 1_000]


def test_no_text_is_no_event() -> None:
    assert token_frames(Cursor(7, 1, 0), "", 0) == []


@pytest.mark.parametrize(
    ("model", "cursor"),
    [
        (start(), Cursor(7, 1, 0)),
        (Token(id="7.1.57", turn=7, content="안", token_count=1), Cursor(7, 1, 57)),
        (
            Error(id="7.1.end", turn=7, code=ErrorCode.INTERRUPTED, message="x", retryable=True),
            Cursor(7, 1, END),
        ),
        (Error(code=ErrorCode.QUEUE_FULL, message="x", retryable=True), None),
        (Queued(turn=7, position=1), None),
        (ServerPing(), None),
    ],
)
def test_an_event_has_a_place_in_the_log_and_other_frames_have_none(
    model: ServerFrame, cursor: Cursor | None
) -> None:
    frame = model.frame()
    assert (frame.type, frame.cursor) == (model.type, cursor)
    assert json.loads(frame.text)["type"] == model.type


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (Accepted(turn=7, duplicate=False, status="queued"), "type turn duplicate status"),
        (
            Accepted(turn=7, duplicate=True, status="running", request_id="r1"),
            "type turn request_id duplicate status",
        ),
        (start(), "type id turn attempt message_id user_message"),
        (
            start(request_id="r1", replaces=3),
            "type id turn attempt message_id user_message request_id replaces",
        ),
        (Queued(turn=7, position=2), "type turn position"),
        (Queued(turn=7, position=2, eta_ms=0), "type turn position eta_ms"),
        (
            Error(code=ErrorCode.QUEUE_FULL, message="x", retryable=True, retry_after_ms=0),
            "type code message retryable retry_after_ms",
        ),
        (Pong(), "type"),
        (ServerPing(), "type"),
    ],
)
def test_what_is_not_known_is_left_out(model: ServerFrame, fields: str) -> None:
    assert list(said(model)) == fields.split()


def test_ready_says_that_no_turn_is_open() -> None:
    ready = Ready(
        session_id="s1",
        created=True,
        resumed=False,
        cursor="0.0.end",
        heartbeat_s=20,
        limits=Limits(max_frame_bytes=2**18),
        turn=None,
    )
    assert said(ready) == {
        "type": "ready",
        "protocol": "midm.chat.v1",
        "session_id": "s1",
        "created": True,
        "resumed": False,
        "cursor": "0.0.end",
        "heartbeat_s": 20.0,
        "limits": {
            "max_message_chars": 32_000,
            "max_new_tokens": 8_192,
            "max_request_id_chars": 64,
            "max_frame_bytes": 2**18,
        },
        "turn": None,
    }


def test_the_open_turn_of_ready_has_a_position_while_it_waits() -> None:
    assert OpenTurn(turn=7, status="running").model_dump() == {"turn": 7, "status": "running"}
    assert OpenTurn(turn=7, status="queued", position=2).model_dump()["position"] == 2


def test_complete_says_that_there_is_no_usage() -> None:
    complete = Complete(
        id="7.1.end",
        turn=7,
        message_id="m2",
        finish_reason="stop",
        total_tokens=6,
        token_usage=None,
        created_at=AT,
        timing=TIMING,
    )
    assert said(complete) == {
        "type": "complete",
        "id": "7.1.end",
        "turn": 7,
        "message_id": "m2",
        "finish_reason": "stop",
        "total_tokens": 6,
        "token_usage": None,
        "created_at": AT,
        "timing": {"queue_ms": 0, "first_token_ms": None, "duration_ms": 12},
    }


def test_a_message_of_the_history_says_that_it_belongs_to_no_turn() -> None:
    message = StoredMessage(
        message_id="m1",
        session_id="s1",
        role="system",
        content="",
        created_at=AT,
        token_usage=None,
        turn=None,
        finish_reason=None,
    )
    history = said(History(messages=[message], total_count=1, next_before=None))
    assert list(history) == ["type", "messages", "total_count", "next_before"]
    assert history["messages"][0] == {
        "message_id": "m1",
        "session_id": "s1",
        "role": "system",
        "content": "",
        "created_at": AT,
        "token_usage": None,
        "turn": None,
        "finish_reason": None,
    }
