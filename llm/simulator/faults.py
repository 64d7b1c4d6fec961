"""Faults and shapes on request, written into the text that is sent to the simulator.

A directive is `#sim key=value key=value#` anywhere in the last user message; it ends at the next
`#` or at the end of its line. `message="two words"` may be quoted. The same pairs, without
`#sim` and `#`, are server-wide defaults as `SimulatorSettings(faults="...")`; a directive goes
over them key by key, and `off` undoes a `pieces`, `status` or `..._at`.

| key              | value   | `/chat/stream`                             | `/chat`                |
|------------------|---------|--------------------------------------------|------------------------|
| `pieces`         | count   | exactly so many pieces, whatever the limit | the same               |
| `interval_ms`    | time    | between pieces; 0: as fast as it can       | before the reply       |
| `first_token_ms` | time    | from the start to the first piece          | before the reply       |
| `delay_ms`       | time    | before the response headers                | before the reply       |
| `stall_at`       | count   | so many pieces, then silence               | never answers          |
| `cut_at`         | count   | so many pieces, then the connection closes | closes within the body |
| `end_at`         | count   | so many pieces, then the body just ends    | half a JSON object     |
| `error_at`       | count   | so many pieces, then an error event        | 500                    |
| `message`        | text    | what the error says (default: nothing)     | the same               |
| `status`         | 400-599 | that status; HTML for 502-504, else JSON   | the same               |
| `junk`           | 0 or 1  | an event nobody knows before every piece   | no effect              |
| `split_utf8`     | 0 or 1  | events in parts, cut inside characters     | no effect              |
| `u2028`          | 0 or 1  | U+2028, U+2029, U+0085 raw in the pieces   | the same               |

Counts go from 0 to 100,000, times from 0 to 600,000 milliseconds. A reply shorter than `..._at`
meets its fault at its end; of several faults the earliest counts.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

MAX_PIECES = 100_000
MAX_MS = 600_000.0

_DIRECTIVE = re.compile(r"#sim(?=[\s#]|$)([^#\n]*)(?:#|$)", re.MULTILINE)
_PAIR = re.compile(r'(?P<key>[^\s=]+)(?:=(?P<value>"[^"]*"|\S*))?')


@dataclass(frozen=True)
class Faults:
    """What one call is to suffer; the default is a call that goes well."""

    pieces: int | None = None
    interval_ms: float = 40.0
    first_token_ms: float = 200.0
    delay_ms: float = 0.0
    stall_at: int | None = None
    cut_at: int | None = None
    end_at: int | None = None
    error_at: int | None = None
    message: str = ""
    status: int | None = None
    junk: bool = False
    split_utf8: bool = False
    u2028: bool = False


class BadDirective(ValueError):
    """A directive has a key nobody knows or a value that does not fit its key."""

    def __init__(self, *, key: str, given: str, expected: str) -> None:
        self.key = key
        self.given = given
        self.expected = expected
        super().__init__(f"{given!r}: {expected}")


def without_directives(text: str) -> str:
    """The text as a model would be asked it, its directives taken out."""
    return _DIRECTIVE.sub("", text).strip()


def directed(text: str, base: Faults) -> Faults:
    """`base`, changed by the directives in `text`; raise `BadDirective`."""
    for directive in _DIRECTIVE.finditer(text):
        base = parse_faults(directive[1], base)
    return base


def parse_faults(pairs: str, base: Faults) -> Faults:
    """`base`, changed by `key=value key=value`; the last of equal keys counts.

    Raises `BadDirective`, which names the key.
    """
    given: dict[str, Any] = {}
    for pair in _PAIR.finditer(pairs):
        key, value = pair["key"], pair["value"]
        if key not in _VALUES:
            known = ", ".join(_VALUES)
            raise BadDirective(key=key, given=pair[0], expected=f"unknown key, known are {known}")
        read, expected = _VALUES[key]
        try:
            given[key] = read((value or "").strip('"'))
        except ValueError:
            raise BadDirective(key=key, given=pair[0], expected=f"expected {expected}") from None
    return replace(base, **given)


def _whole(lowest: int, highest: int) -> Callable[[str], int | None]:
    def read(value: str) -> int | None:
        if value == "off":
            return None
        number = int(value)
        if not lowest <= number <= highest:
            raise ValueError(value)
        return number

    return read


def _milliseconds(value: str) -> float:
    number = float(value)
    if not 0 <= number <= MAX_MS:  # NaN is in no range
        raise ValueError(value)
    return number


def _flag(value: str) -> bool:
    if value not in ("0", "1"):
        raise ValueError(value)
    return value == "1"


_COUNT = (_whole(0, MAX_PIECES), f"a whole number from 0 to {MAX_PIECES}, or off")
_TIME = (_milliseconds, f"milliseconds from 0 to {MAX_MS:.0f}")
_SWITCH = (_flag, "0 or 1")

_VALUES: dict[str, tuple[Callable[[str], Any], str]] = {
    "pieces": _COUNT,
    "interval_ms": _TIME,
    "first_token_ms": _TIME,
    "delay_ms": _TIME,
    "stall_at": _COUNT,
    "cut_at": _COUNT,
    "end_at": _COUNT,
    "error_at": _COUNT,
    "message": (str, "text"),
    "status": (_whole(400, 599), "a status from 400 to 599, or off"),
    "junk": _SWITCH,
    "split_utf8": _SWITCH,
    "u2028": _SWITCH,
}
