"""JSON objects as they lie in a text column, whoever wrote them there."""

import json
from typing import Any

from protocol.text import storable


def read_object(stored: str | None) -> dict[str, Any] | None:
    """Read a stored JSON object; None where there is none, or nothing that makes sense.

    What it returns can be said: it holds no lone surrogates, which the original let in.
    """
    try:
        found = json.loads(stored or "null")
        if not isinstance(found, dict):
            return None
        said: dict[str, Any] = json.loads(storable(json.dumps(found, ensure_ascii=False)))
    except (ValueError, RecursionError):
        return None
    return said
