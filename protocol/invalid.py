"""Says of input that does not validate which field, what was given and what is allowed."""

import json
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from protocol.errors import ErrorCode, Refusal
from protocol.text import storable

_SHOWN_CHARS = 60
_SECRET = {"token"}


def parse_json(text: str | bytes) -> Any:
    """Read JSON; raise `Refusal` (`bad_json`) for anything RFC 8259 does not allow.

    Lone surrogates in escapes are let through: they are replaced where the text is used.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        where = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise Refusal(ErrorCode.BAD_JSON, f"This is not valid JSON: {where}.") from None
    except (ValueError, RecursionError):
        raise Refusal(ErrorCode.BAD_JSON) from None


def refusal(error: ValidationError, *, request_id: str | None = None) -> Refusal:
    """Turn pydantic's findings into one refusal that names every field at fault."""
    findings = error.errors(include_url=False, include_context=False)
    return Refusal(_code(findings), "; ".join(map(_sentence, findings)), request_id=request_id)


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _code(findings: list[ErrorDetails]) -> ErrorCode:
    too_long = {"type": "string_too_long", "loc": ("message",)}
    if any(too_long.items() <= finding.items() for finding in findings):
        return ErrorCode.MESSAGE_TOO_LONG
    return ErrorCode.BAD_FRAME


def _sentence(finding: ErrorDetails) -> str:
    field = ".".join(map(str, finding["loc"])) or "body"
    says = finding["msg"][:1].lower() + finding["msg"][1:]
    if finding["type"] == "missing":
        return f"{field}: {says}"
    return f"{field}: {says}, given {_shown(field, finding['input'])}"


def _shown(field: str, given: Any) -> str:
    if field in _SECRET:
        return "a value that is not shown"
    if isinstance(given, str) and len(given) > _SHOWN_CHARS:
        return f"{len(given)} characters"
    shown = storable(json.dumps(given, default=str, ensure_ascii=False))
    return shown if len(shown) <= _SHOWN_CHARS else shown[:_SHOWN_CHARS] + "…"
