"""Times as they are stored and said: UTC, RFC 3339, microseconds, `Z`."""

from datetime import UTC, datetime


def utc_now() -> str:
    """The time now, such as `2026-01-31T09:30:00.123456Z`."""
    return rfc3339(datetime.now(UTC))


def rfc3339(moment: datetime) -> str:
    """Write an aware moment as text that sorts by time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def age_s(moment: str) -> float:
    """Seconds since a stored time, by the wall clock; negative if it lies in the future."""
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()


def from_original(stored: str) -> str:
    """Read a time the original wrote: local, without a zone, or already with one.

    What cannot be read is returned as it is, so that no conversation is refused for a date.
    """
    try:
        moment = datetime.fromisoformat(stored)
    except (ValueError, TypeError):
        return stored
    return rfc3339(moment.astimezone())
