"""Stored JSON objects are read, and what is none is None."""

import pytest

from storage.objects import read_object


@pytest.mark.parametrize("stored", ["{}", '{"a": 1}', '{"a": {"b": ["안", null, 1.5]}}'])
def test_an_object_is_read(stored: str) -> None:
    assert read_object(stored) is not None


@pytest.mark.parametrize(
    "stored", [None, "", " ", "null", "[]", "5", '"x"', "{", "{'a': 1}", "9" * 5_000, "[" * 10_000]
)
def test_what_is_no_object_is_none(stored: str | None) -> None:
    assert read_object(stored) is None


def test_lone_surrogates_are_replaced_and_pairs_joined() -> None:
    assert read_object('{"\\ud800": "\\ud83d\\ude00"}') == {"\ufffd": "😀"}
