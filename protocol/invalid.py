"""Says of input that does not validate which field, what was given and what is allowed."""

import json
import math
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from protocol.errors import ErrorCode, Refusal
from protocol.text import storable

MAX_DEPTH = 64
"""So many objects and lists may hold a value, one in another; pydantic gives up at 255."""

_SHOWN_CHARS = 60
_SECRET = {"token"}
_TOO_DEEP = f"This JSON is nested more than {MAX_DEPTH} levels deep."


def parse_json(text: str | bytes) -> Any:
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
        raise Refusal(ErrorCode.BAD_JSON, _TOO_DEEP) from None
    if _is_too_deep(value):
        raise Refusal(ErrorCode.BAD_JSON, _TOO_DEEP)
    return value


def refusal(error: ValidationError, *, request_id: str | None = None) -> Refusal:
    """Turn pydantic's findings into one refusal that names every field at fault."""
    findings = error.errors(include_url=False, include_context=False)
    return Refusal(_code(findings), "; ".join(map(_sentence, findings)), request_id=request_id)


def shown(given: Any) -> str:
    """Quote what was given as JSON, or tell its length where that is too long to be shown."""
    if isinstance(given, str) and len(given) > _SHOWN_CHARS:
        return f"{len(given)} characters"
    quoted = storable(json.dumps(given, default=str, ensure_ascii=False))
    return quoted if len(quoted) <= _SHOWN_CHARS else quoted[:_SHOWN_CHARS] + "…"


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _finite(digits: str) -> float:
    # RFC 8259 sets no limit, but what Python reads of 1e999 could not be written as JSON again.
    if not math.isfinite(number := float(digits)):
        raise ValueError(digits)
    return number


def _is_too_deep(value: Any) -> bool:
    # Level by level and not by recursion, which is what a deep value is meant to exhaust.
    level = [value]
    for _ in range(MAX_DEPTH + 1):
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
    field = ".".join(map(str, finding["loc"])) or "body"
    says = finding["msg"][:1].lower() + finding["msg"][1:]
    if finding["type"] == "model_type":
        says = "input should be an object"  # pydantic would name the class
    if finding["type"] == "missing":
        return f"{field}: {says}"
    given = "a value that is not shown" if field in _SECRET else shown(finding["input"])
    return f"{field}: {says}, given {given}"
