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


def from_original(stored: object, *, otherwise: str) -> str:
    """Read a time the original wrote: local, without a zone, or already with one.

    Return `otherwise` for what cannot be read: no conversation is refused for a date.
    """
    try:
        return rfc3339(datetime.fromisoformat(str(stored)).astimezone())
    except (ValueError, OverflowError):
        return otherwise
