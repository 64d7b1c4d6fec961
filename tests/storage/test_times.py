"""Times are said in UTC, whatever zone they were written in."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from storage.times import age_s, from_original, rfc3339, utc_now

OTHERWISE = "2026-01-01T00:00:00.000000Z"


def test_now_is_written_so_that_it_sorts_and_reads_back() -> None:
    earlier, later = utc_now(), utc_now()
    assert earlier <= later
    assert len(earlier) == len("2026-01-31T09:30:00.123456Z")
    assert datetime.fromisoformat(earlier).tzinfo is not None
    assert 0 <= age_s(earlier) < 60


def test_microseconds_are_always_written() -> None:
    assert rfc3339(datetime(2026, 1, 31, 9, 30, tzinfo=UTC)) == "2026-01-31T09:30:00.000000Z"
    seoul = datetime(2026, 1, 31, 9, 30, tzinfo=timezone(timedelta(hours=9)))
    assert rfc3339(seoul) == "2026-01-31T00:30:00.000000Z"


def test_a_time_in_the_future_has_a_negative_age() -> None:
    assert age_s(rfc3339(datetime.now(UTC) + timedelta(hours=1))) < -3_000


@pytest.mark.parametrize(
    ("stored", "utc"),
    [
        ("2026-11-23T11:11:49.909775", "2026-11-23T02:11:49.909775Z"),
        ("2026-11-23 11:11:49.909775", "2026-11-23T02:11:49.909775Z"),
        ("2026-11-23T11:11:49", "2026-11-23T02:11:49.000000Z"),
        ("2026-11-23T11:11:49+00:00", "2026-11-23T11:11:49.000000Z"),
        ("2026-11-23T11:11:49Z", "2026-11-23T11:11:49.000000Z"),
    ],
)
@pytest.mark.usefixtures("in_seoul")
def test_a_time_without_a_zone_is_local(stored: str, utc: str) -> None:
    assert from_original(stored, otherwise=OTHERWISE) == utc


@pytest.mark.parametrize(
    "stored", [None, "", "yesterday", 20261123.5, b"2026", "0001-01-01T00:00:00"]
)
@pytest.mark.usefixtures("in_seoul")
def test_a_time_that_cannot_be_read_is_another(stored: object) -> None:
    assert from_original(stored, otherwise=OTHERWISE) == OTHERWISE
