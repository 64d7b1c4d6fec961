"""A cursor is written, read back and compared."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.cursor import BEGINNING, END, Cursor

numbers = st.integers(0, 999_999_999)
offsets = st.integers(0, 10**15 - 1) | st.just(END)
cursors = st.builds(Cursor, numbers, numbers, offsets)


@pytest.mark.parametrize(
    ("written", "cursor"),
    [
        ("7.1.57", Cursor(7, 1, 57)),
        ("7.1.end", Cursor(7, 1, END)),
        ("7.1.0", Cursor(7, 1, 0)),
        ("0.0.end", BEGINNING),
        ("999999999.999999999.999999999999999", Cursor(999999999, 999999999, 10**15 - 1)),
    ],
)
def test_a_cursor_is_three_numbers_or_ends_in_end(written: str, cursor: Cursor) -> None:
    assert Cursor.parse(written) == cursor
    assert str(cursor) == written


@settings(deadline=None)
@given(cursors)
def test_what_is_written_reads_back(cursor: Cursor) -> None:
    assert Cursor.parse(str(cursor)) == cursor


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "7.1",
        "7.1.",
        "7.1.57.0",
        ".1.57",
        "7..57",
        "-7.1.57",
        "+7.1.57",
        "07.1.57",
        "7.01.57",
        "7.1.057",
        "7.1.END",
        "7.end.57",
        "end.1.57",
        "7.1.5e1",
        "7.1.5_7",
        " 7.1.57",
        "7.1.57 ",
        "7.1.57\n",
        "7.1.57\0",
        "7,1,57",
        "٧.1.57",
        "1٧.1.57",
        "7.1.5٧",
        "７.1.57",
        "7.1.²",
        "1000000000.1.57",
        "7.1000000000.57",
        "7.1.1000000000000000",
        "9" * 5_000 + ".1.57",
        "안녕하세요",
        "\ud800.1.57",
    ],
)
def test_what_is_no_cursor_is_none(text: str) -> None:
    assert Cursor.parse(text) is None


@settings(deadline=None)
@given(st.text(alphabet="0123456789.end-", max_size=12))
def test_only_what_a_cursor_writes_is_one(text: str) -> None:
    cursor = Cursor.parse(text)
    assert cursor is None or str(cursor) == text


def test_cursors_are_ordered_by_turn_then_attempt_then_offset_with_end_last() -> None:
    written = ["0.0.end", "1.1.0", "1.1.9", "1.1.10", "1.1.end", "1.2.0", "2.1.0", "10.1.0"]
    cursors = [Cursor.parse(text) for text in written]
    assert None not in cursors
    assert sorted(cursors, reverse=True) == cursors[::-1]  # type: ignore[type-var]


@settings(deadline=None)
@given(numbers, numbers, st.integers(0, 10**15 - 1))
def test_end_lies_behind_every_offset(turn: int, attempt: int, offset: int) -> None:
    assert Cursor(turn, attempt, offset) < Cursor(turn, attempt, END)


def test_a_cursor_knows_whether_its_turn_is_over() -> None:
    assert BEGINNING.ended
    assert Cursor(7, 1, END).ended
    assert not Cursor(7, 1, 57).ended
