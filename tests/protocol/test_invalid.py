"""JSON is read strictly, and what is wrong with it is said."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import ErrorCode, Refusal
from protocol.invalid import MAX_DEPTH, parse_json, shown


def bad_json(text: str | bytes) -> str:
    with pytest.raises(Refusal) as caught:
        parse_json(text)
    assert caught.value.code == ErrorCode.BAD_JSON
    return caught.value.message


def nested(levels: int, *, opened: str = "[", closed: str = "]") -> str:
    return opened * levels + "1" + closed * levels


def test_json_is_read_from_text_and_from_bytes() -> None:
    assert parse_json('{"a": [1, 2.5, null, "안"]}') == {"a": [1, 2.5, None, "안"]}
    assert parse_json('{"a": "안"}'.encode()) == {"a": "안"}
    assert parse_json('{"a": "안"}'.encode("utf-8-sig")) == {"a": "안"}


def test_of_a_name_that_is_given_twice_the_last_counts() -> None:
    assert parse_json('{"a": 1, "a": 2}') == {"a": 2}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "{",
        "{oops",
        '{"a": 1,}',
        "{'a': 1}",
        '{"a": 1} {"b": 2}',
        '{"a": "line\nbreak"}',
        '{"a": "\\x"}',
        "[01]",
        "\ufeff{}",
        b"",
        b'{"a": "\xff"}',
        b'{"a": "\xed\xa0\x80"}',
        '{"a": 1}'.encode("utf-16"),
        b"\x00",
    ],
)
def test_what_is_no_json_is_refused(text: str | bytes) -> None:
    assert bad_json(text).startswith("This is not valid JSON")


def test_a_refusal_says_where_the_mistake_is() -> None:
    assert "line 2, column 4" in bad_json('{"a":\n  1x}')


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_a_number_that_is_not_finite_is_refused(number: str) -> None:
    bad_json(f'{{"a": {number}}}')


def test_a_number_of_many_digits_is_refused_rather_than_converted() -> None:
    bad_json("9" * 5_000)
    assert parse_json("9" * 400) == int("9" * 400)


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 255, 900, 990, 1_000, 100_000])
@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_what_is_nested_too_deeply_is_refused_however_deep(
    levels: int, opened: str, closed: str
) -> None:
    assert "levels deep" in bad_json(nested(levels, opened=opened, closed=closed))


def test_what_is_nested_as_deeply_as_is_allowed_is_read() -> None:
    assert parse_json(nested(MAX_DEPTH))
    assert parse_json(nested(MAX_DEPTH, opened='{"a":', closed="}"))
    assert parse_json("[" + ",".join([nested(MAX_DEPTH - 1)] * 100) + "]")


def test_brackets_within_strings_nest_nothing() -> None:
    assert parse_json('{"a": "' + "[{" * 1_000 + '"}') == {"a": "[{" * 1_000}


@settings(deadline=None)
@given(st.text(alphabet=st.characters()) | st.binary())
def test_anything_is_read_or_refused(text: str | bytes) -> None:
    with suppress(Refusal):
        parse_json(text)


@pytest.mark.parametrize(
    ("given", "quoted"),
    [
        ("안녕", '"안녕"'),
        (None, "null"),
        (5, "5"),
        ({"a": [1]}, '{"a": [1]}'),
        ("x" * 61, "61 characters"),
        (["x" * 100], '["' + "x" * 58 + "…"),
        ("\ud800", '"\ufffd"'),
        ("\0", '"\\u0000"'),
        ("a\nb", '"a\\nb"'),
    ],
)
def test_what_was_given_is_quoted_on_one_short_line(given: Any, quoted: str) -> None:
    assert shown(given) == quoted
