"""The running turn as its readers see it: merged text, offsets, frames encoded once."""

import json

import pytest

from gateway.brokers.live import LiveTurn
from protocol.cursor import END, Cursor
from protocol.server_frames import Frame, Start, UserMessage


def live_turn(turn: int = 1, attempt: int = 1) -> LiveTurn:
    return LiveTurn(
        Start(
            id=str(Cursor(turn, attempt, 0)),
            turn=turn,
            attempt=attempt,
            message_id="m2",
            user_message=UserMessage(message_id="m1", content="hi", created_at="now"),
        )
    )


def text_of(frames: list[Frame]) -> str:
    return "".join(json.loads(frame.text)["content"] for frame in frames)


def filled(*pieces: str) -> LiveTurn:
    turn = live_turn()
    for count, piece in enumerate(pieces, start=1):
        turn.append(piece, count)
    return turn


def test_text_that_piled_up_is_merged() -> None:
    turn = filled("one ", "two ", "three")
    [frame] = turn.tokens_after(0)
    assert json.loads(frame.text) == {
        "type": "token",
        "id": "1.1.13",
        "turn": 1,
        "content": "one two three",
        "token_count": 3,
    }
    assert frame.cursor == Cursor(1, 1, 13)


@pytest.mark.parametrize("offset", range(9))
def test_reading_goes_on_anywhere_in_the_text(offset: int) -> None:
    text = "안녕 하세요 😀"
    turn = filled("안", "녕 ", "", "하세요 ", "😀")
    assert text_of(turn.tokens_after(offset)) == text[offset:]


def test_offsets_count_code_points() -> None:
    turn = filled("😀😀", "x")
    assert turn.length == 3
    assert text_of(turn.tokens_after(1)) == "😀x"


def test_readers_equally_far_get_the_very_same_frames() -> None:
    turn = filled("one ", "two ")
    assert turn.tokens_after(4)[0] is turn.tokens_after(4)[0]
    first = turn.tokens_after(4)
    turn.append("three", 3)
    assert text_of(turn.tokens_after(4)) == "two three"
    assert turn.tokens_after(4)[0] is not first[0]


def test_a_reader_that_is_behind_gets_a_bounded_part() -> None:
    turn = filled(*["x" * 1_000] * 200)
    offset, reads = 0, 0
    while offset < turn.length:
        frames = turn.tokens_after(offset)
        assert all(len(json.loads(frame.text)["content"]) <= 16_384 for frame in frames)
        assert len(frames) <= 4
        assert frames[-1].cursor is not None
        offset = frames[-1].cursor.offset
        reads += 1
    assert reads == 4
    counts = json.loads(frames[-1].text)["token_count"]
    assert counts == 200


def test_the_count_of_a_reader_that_is_behind_never_runs_ahead() -> None:
    turn = filled(*["word "] * 20_000)
    counts, offset = [], 0
    while offset < turn.length:
        for frame in turn.tokens_after(offset):
            assert frame.cursor is not None
            offset = frame.cursor.offset
            counts.append(json.loads(frame.text)["token_count"])
    assert counts == sorted(counts)
    assert counts[-1] == 20_000


def test_the_text_is_whole_whenever_it_is_asked_for() -> None:
    turn = live_turn()
    assert turn.text() == ""
    turn.append("one ", 1)
    assert turn.text() == "one "
    turn.append("two", 2)
    assert turn.text() == "one two"
    # Asking joins the pieces, which must not disturb those who read on.
    turn.append("!", 3)
    assert text_of(turn.tokens_after(4)) == "two!"


def test_its_place_in_the_queue_comes_and_goes() -> None:
    def told(turn: LiveTurn) -> tuple[str, object]:
        return turn.status, json.loads(turn.queued.text) if turn.queued else None

    turn = live_turn()
    assert told(turn) == ("running", None)
    turn.place(2, 1_500)
    queued = {"type": "queued", "turn": 1, "position": 2, "eta_ms": 1_500}
    assert told(turn) == ("queued", queued)
    turn.place(0, None)
    assert told(turn) == ("running", None)


def test_at_its_end_the_text_is_let_go() -> None:
    turn = filled("one")
    turn.tokens_after(0)
    ending = Frame("complete", Cursor(1, 1, END), "{}")
    turn.finish(ending)
    assert turn.ending is ending
    assert turn.length == 3, "readers need it to know whether they have seen all"
    assert turn.text() == ""


def test_a_reply_may_be_longer_than_what_is_known_here_of_it() -> None:
    turn = filled("one")
    turn.finish(Frame("complete", Cursor(1, 1, END), "{}"), length=7)
    assert turn.length == 7


def test_a_turn_that_is_withdrawn_is_void_and_without_text() -> None:
    turn = filled("one")
    turn.tokens_after(0)
    turn.withdraw()
    assert turn.void
    assert (turn.text(), turn.newest, turn.newest_token) == ("", -1, None)
