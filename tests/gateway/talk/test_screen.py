"""How a line that grows is broken to fit the terminal."""

import pytest

from gateway.talk.screen import _broken


@pytest.mark.parametrize(
    ("line", "room", "broken"),
    [
        ("one two three", 8, ("one two", "three")),
        ("onetwothree", 3, ("one", "twothree")),
        ("안녕하세요", 4, ("안녕", "하세요")),
        ("안녕", 1, ("안", "녕")),
        ("👩 a", 1, ("👩", " a")),
    ],
)
def test_a_line_that_is_too_wide_always_gets_shorter(
    line: str, room: int, broken: tuple[str, str]
) -> None:
    assert _broken(line, room) == broken
