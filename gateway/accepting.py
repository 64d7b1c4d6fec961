"""Which of several media types a client would rather have (RFC 9110, section 12.5.1)."""

from collections.abc import Sequence


def preferred(offered: Sequence[str], accept: str) -> str:
    """Choose a media type; the first one where nothing is asked for, or nothing that there is."""
    ranges = dict(map(_range, accept.lower().split(",")))
    # `max` keeps to the order of what is offered among equals.
    return max(offered, key=lambda media_type: _quality(media_type, ranges))


def _range(said: str) -> tuple[str, float]:
    name, *parameters = (part.strip() for part in said.split(";"))
    quality = next((value[2:] for value in parameters if value.startswith("q=")), "1")
    try:
        return name, float(quality)
    except ValueError:
        return name, 0.0


def _quality(media_type: str, ranges: dict[str, float]) -> float:
    kind = media_type.partition("/")[0]
    found = (ranges[name] for name in (media_type, f"{kind}/*", "*/*") if name in ranges)
    return next(found, 0.0)
