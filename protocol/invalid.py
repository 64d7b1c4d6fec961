"""Says of input that does not validate which field, what was given and what is allowed."""

import json
import math
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from protocol.errors import ErrorCode, Refusal
from protocol.text import printable, storable

MAX_DEPTH = 64
"""So many objects and lists may hold a value, one in another; pydantic gives up at 255."""

MAX_FINDINGS = 10
"""So many fields at fault are named: more than any frame or body has."""

_SHOWN_CHARS = 60
_NAMED_CHARS = 100
_SECRET = {"token"}


def parse_json(text: str | bytes, *, max_depth: int = MAX_DEPTH) -> Any:
    """Read JSON; raise `Refusal` (`bad_json`) for anything RFC 8259 does not allow.

    Nor may it be nested too deeply, or hold a number that is no finite one. Lone surrogates in
    escapes are let through: they are replaced where the text is used.
    """
    try:
        if isinstance(text, bytes):
            # json.loads would guess at UTF-16, and let surrogates through that are no UTF-8.
            text = text.decode("utf-8-sig")
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        where = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise Refusal(ErrorCode.BAD_JSON, f"This is not valid JSON: {where}.") from None
    except ValueError:
        raise Refusal(ErrorCode.BAD_JSON) from None
    except RecursionError:
        raise _too_deep(max_depth) from None
    if _is_too_deep(value, max_depth):
        raise _too_deep(max_depth)
    return value


def refusal(error: ValidationError, *, request_id: str | None = None) -> Refusal:
    """Turn pydantic's findings into one refusal that names the fields at fault.

    What it says is printable and of bounded length, whatever was given and however much.
    """
    findings = error.errors(include_url=False, include_context=False)
    says = "; ".join(map(_sentence, findings[:MAX_FINDINGS]))
    if len(findings) > MAX_FINDINGS:
        says += f"; and {len(findings) - MAX_FINDINGS} more"
    return Refusal(_code(findings), says, request_id=request_id)


def shown(given: Any) -> str:
    """Quote what was given as JSON, or tell its length where that is too long to be shown."""
    if isinstance(given, str) and len(given) > _SHOWN_CHARS:
        return f"{len(given)} characters"
    return _short(json.dumps(given, default=str, ensure_ascii=False), _SHOWN_CHARS)


def _short(text: str, max_chars: int) -> str:
    # Cut before it is made printable too: there may be very much of it.
    text = printable(storable(text[: max_chars + 1]))
    return text if len(text) <= max_chars else text[:max_chars] + "…"


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _finite(digits: str) -> float:
    # RFC 8259 sets no limit, but what Python reads of 1e999 could not be written as JSON again.
    if not math.isfinite(number := float(digits)):
        raise ValueError(digits)
    return number


def _too_deep(max_depth: int) -> Refusal:
    return Refusal(ErrorCode.BAD_JSON, f"This JSON is nested more than {max_depth} levels deep.")


def _is_too_deep(value: Any, max_depth: int) -> bool:
    # Level by level and not by recursion, which is what a deep value is meant to exhaust.
    level = [value]
    for _ in range(max_depth + 1):
        level = [child for value in level for child in _children(value)]
        if not level:
            return False
    return True


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _code(findings: list[ErrorDetails]) -> ErrorCode:
    too_long = {"type": "string_too_long", "loc": ("message",)}
    if any(too_long.items() <= finding.items() for finding in findings):
        return ErrorCode.MESSAGE_TOO_LONG
    return ErrorCode.BAD_FRAME


def _sentence(finding: ErrorDetails) -> str:
    field = _short(".".join(map(str, finding["loc"])), _NAMED_CHARS) or "body"
    says = finding["msg"][:1].lower() + finding["msg"][1:]
    if finding["type"] == "model_type":
        says = "input should be an object"  # pydantic would name the class
    if finding["type"] == "missing":
        return f"{field}: {says}"
    given = "a value that is not shown" if field in _SECRET else shown(finding["input"])
    return f"{field}: {says}, given {given}"
