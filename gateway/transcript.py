"""A session as text to be kept: JSON Lines for programs, Markdown for people."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from protocol.server_frames import StoredMessage
from protocol.text import printable

_WHO = {"user": "User", "assistant": "Assistant", "system": "System"}
# CommonMark, section 2.1.
_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class Form:
    """A way to write messages: what it is called, and what it makes of a session and of some."""

    media_type: str
    extension: str
    heading: Callable[[str], str]
    written: Callable[[Sequence[StoredMessage]], str]


def json_lines(messages: Sequence[StoredMessage]) -> str:
    """Write each message as one line, with the fields it has in the history."""
    return "".join(f"{message.model_dump_json()}\n" for message in messages)


def markdown(messages: Sequence[StoredMessage]) -> str:
    """Write each message as a heading, which says who and when, and a quote.

    In a quote a text stays what it is, and nothing in it reaches beyond: no heading, no rule, no
    fence that is never closed.
    """
    return "".join(f"\n## {_title(message)}\n{_quoted(message.content)}" for message in messages)


def _title(message: StoredMessage) -> str:
    notes: list[str] = [] if message.turn is None else [f"turn {message.turn}"]
    if message.finish_reason not in (None, "stop"):
        notes.append(str(message.finish_reason))
    if message.replaced_by is not None:
        notes.append(f"replaced by turn {message.replaced_by}")
    aside = f" ({', '.join(notes)})" if notes else ""
    return f"{_WHO[message.role]}, {message.created_at}{aside}"


def _quoted(text: str) -> str:
    lines = (f"> {line}" if line else ">" for line in _LINE_END.split(text))
    return "\n" + "\n".join(lines) + "\n" if text else ""


def _heading(session_id: str) -> str:
    return f"# Session {printable(session_id)}\n"


def _none(session_id: str) -> str:
    return ""


JSON_LINES = Form("application/jsonl", "jsonl", _none, json_lines)
NDJSON = Form("application/x-ndjson", "jsonl", _none, json_lines)
MARKDOWN = Form("text/markdown", "md", _heading, markdown)
