"""Ids that sort by the time they were made up."""

import time
from uuid import RFC_4122, UUID

import pytest

from storage.ids import new_message_id


def test_it_is_a_uuid_of_version_7() -> None:
    for made in [new_message_id() for _ in range(100)]:
        parsed = UUID(made)
        assert str(parsed) == made
        assert (parsed.variant, parsed.version) == (RFC_4122, 7)


def test_none_comes_twice_in_the_same_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000_000_000)
    made = {new_message_id() for _ in range(10_000)}
    assert len(made) == 10_000
    assert {UUID(each).int >> 80 for each in made} == {1_700_000_000_000}


def test_later_ones_sort_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for milliseconds in range(1_000):
        moment = 1_800_000_000_000_000_000 + milliseconds * 1_000_000
        monkeypatch.setattr(time, "time_ns", lambda moment=moment: moment)
        made.append(new_message_id())
    assert made == sorted(made)
