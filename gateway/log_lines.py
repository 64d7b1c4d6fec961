"""How one record is written out: as a line of text or of JSON, whatever strangers wrote into it."""

import json
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime

from gateway.secrets import without_secrets
from protocol.text import REORDERING
from storage.turns import StoredTurn

FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"

FIELDS = ("session", "turn", "attempt", "node", "code")
"""What a record may say beside its message, as `extra`: where it belongs, and what went wrong."""

MAX_LINE_CHARS = 8_192
MAX_TRACEBACK_LINES = 200
MAX_TRACEBACK_CHARS = 2 * MAX_LINE_CHARS
"""Of a traceback in JSON, where it is all in one line."""

INDENT = "  "
_MAX_FIELD_CHARS = 128

_CONTROLS = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # C0, DEL and C1, with which terminals are steered
    "\u2028\u2029"  # end a line for some who read logs
    + REORDERING
    + "\ud800-\udfff"  # cannot be encoded
    "]"
)


class OneLine(logging.Formatter):
    """Formats a record as one line, and what was raised as lines that are indented.

    Nobody can forge a line, change how others look, or have one of more than `MAX_LINE_CHARS`
    characters; what looks like a credential is left out.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Write a record out, without a line break at its end."""
        record.message = message_of(record)
        record.asctime = self.formatTime(record, self.datefmt)
        # Not what `exc_text` keeps: whoever formatted this record before did not look at it.
        details = [self.formatException(record.exc_info)] if record.exc_info else []
        details += [record.stack_info] if record.stack_info else []
        fields = "".join(f" {name}={value}" for name, value in fields_of(record))
        # What it belongs to is not cut off, however much it says.
        said = _clean(self.formatMessage(record).rstrip("\r\n"), most=MAX_LINE_CHARS - len(fields))
        return "\n".join([said + fields, *_indented(details)])


class JsonLine(OneLine):
    """Formats a record as one line that is a JSON object (RFC 8259), what was raised included.

    As safe as `OneLine`: what is no plain text stands there by its number, a message has at most
    `MAX_LINE_CHARS` characters, and what looks like a credential is left out.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Write a record out, without a line break at its end."""
        line: dict[str, object] = {
            "time": _rfc3339(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": _cut(without_secrets(message_of(record).rstrip("\r\n"))),
            **dict(fields_of(record)),
        }
        if record.exc_info:
            line["traceback"] = _ends(without_secrets(self.formatException(record.exc_info)))
        if record.stack_info:
            line["stack"] = _ends(without_secrets(record.stack_info))
        written = json.dumps(line, ensure_ascii=False)
        return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", written)


def of_turn(turn: StoredTurn, **more: str | None) -> dict[str, object]:
    """Make the `extra` of a record that belongs to a turn; what is None is left out of the line."""
    return {"session": turn.session_id, "turn": turn.turn, "attempt": turn.attempt, **more}


def fields_of(record: logging.LogRecord) -> Iterator[tuple[str, str | int]]:
    """List what a record says beside its message; nothing that strangers have written is one."""
    for name in FIELDS:
        value = getattr(record, name, None)
        if isinstance(value, int):
            yield name, value
        elif value is not None:
            yield name, _clean(str(value), most=_MAX_FIELD_CHARS)


def _rfc3339(seconds: float) -> str:
    said = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return said.replace("+00:00", "Z")


def _ends(text: str) -> str:
    """Keep how it began, and what it was in the end."""
    if len(text) <= MAX_TRACEBACK_CHARS:
        return text
    half = MAX_TRACEBACK_CHARS // 2
    return f"{text[:half]}\n… ({len(text) - 2 * half} characters more)\n{text[-half:]}"


def message_of(record: logging.LogRecord) -> str:
    """Say what a record says, even one whose arguments do not fit its message."""
    try:
        return record.getMessage()
    except Exception:
        return f"{record.msg!s}, which its arguments do not fit"


def _indented(details: list[str]) -> Iterator[str]:
    lines = [line for detail in details for line in without_secrets(detail).split("\n")]
    half = MAX_TRACEBACK_LINES // 2
    if len(lines) > MAX_TRACEBACK_LINES:
        # How it began, and what it was in the end.
        more = len(lines) - MAX_TRACEBACK_LINES
        lines = [*lines[:half], f"… ({more} lines more)", *lines[-half:]]
    return (_cut(f"{INDENT}{_escaped(line)}") for line in lines)


def _clean(text: str, *, most: int = MAX_LINE_CHARS) -> str:
    return _cut(_escaped(without_secrets(text)), most)


def _escaped(text: str) -> str:
    # Not by a codec, which is a module to be loaded: there may be no file left to open for it.
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def _cut(line: str, most: int = MAX_LINE_CHARS) -> str:
    if len(line) <= most:
        return line
    # It takes room of its own, as much as the largest number would.
    kept = most - len(_rest_of(len(line)))
    return line[:kept] + _rest_of(len(line) - kept)


def _rest_of(chars: int) -> str:
    return f"… ({chars} characters more)"
