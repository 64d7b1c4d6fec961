"""Whether a value is as a vector expects it, and what is to be remembered of it. Pure."""

import re
from collections.abc import Mapping
from typing import Any

KINDS: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}
_NAME = re.compile(r"\$\{(\w+)\}")
_ABSENT = object()

Variables = dict[str, Any]


class Mismatch(AssertionError):
    """Something is not as expected; says where in it."""


def filled(value: Any, variables: Variables) -> Any:
    """Put what was remembered in place of each `${name}`; a text that is only one becomes it.

    `{"$repeat": [text, times]}` is that text, which nobody would want to scroll past.
    """
    match value:
        case str() if whole := _NAME.fullmatch(value):
            return variables[whole[1]]
        case str():
            return _NAME.sub(lambda found: str(variables[found[1]]), value)
        case list():
            return [filled(each, variables) for each in value]
        case {"$repeat": [str(text), int(times)]}:
            return text * times
        case dict():
            return {name: filled(each, variables) for name, each in value.items()}
    return value


def match(given: Any, expected: Any, variables: Variables, where: str = "it") -> None:
    """Compare; keep in `variables` what is to be remembered. Raises `Mismatch`."""
    if isinstance(expected, dict) and any(name.startswith("$") for name in expected):
        for rule, wanted in expected.items():
            _rule(rule, given, wanted, variables, where=where)
    elif isinstance(expected, dict):
        _require(isinstance(given, dict), f"{where} should be an object, is {given!r}")
        for name, each in expected.items():
            match(given.get(name, _ABSENT), each, variables, f"{where}.{name}")
    elif isinstance(expected, list):
        _require(isinstance(given, list), f"{where} should be an array, is {given!r}")
        _require(len(given) == len(expected), f"{where} should have {len(expected)}: {given!r}")
        for n, (each, wanted) in enumerate(zip(given, expected, strict=True)):
            match(each, wanted, variables, f"{where}[{n}]")
    else:
        wanted = filled(expected, variables)
        same = type(given) is type(wanted) or {type(given), type(wanted)} <= {int, float}
        _require(same and given == wanted, f"{where} should be {wanted!r}, is {_shown(given)}")


def _rule(rule: str, given: Any, wanted: Any, variables: Variables, *, where: str) -> None:
    if rule == "$absent":
        _require((given is _ABSENT) == wanted, f"{where} is {_shown(given)}")
        return
    _require(given is not _ABSENT, f"{where} is missing")
    wanted = filled(wanted, variables)
    match rule:
        case "$save":
            variables[wanted] = given
        case "$type":
            right = isinstance(given, KINDS[wanted])
            right = right and (wanted == "boolean" or not isinstance(given, bool))
            _require(right, f"{where} should be of type {wanted}, is {given!r}")
        case "$match":
            right = isinstance(given, str) and re.search(wanted, given) is not None
            _require(right, f"{where} should match {wanted!r}, is {given!r}")
        case "$one":
            _require(given in wanted, f"{where} should be one of {wanted!r}, is {given!r}")
        case "$not":
            _require(given != wanted, f"{where} should not be {wanted!r}")
        case "$length":
            _require(len(given) == wanted, f"{where} should have length {wanted}: {given!r}")
        case _:
            raise ValueError(f"no rule {rule}")


def _require(holds: bool, says: str) -> None:
    if not holds:
        raise Mismatch(says)


def _shown(given: Any) -> str:
    return "missing" if given is _ABSENT else repr(given)
