"""What a conversation gives somebody to see, and how it is put into words for a terminal."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from protocol.text import REORDERING

Json = dict[str, Any]

_PICTURES = {code: 0x2400 + code for code in range(0x20)}
_HIDDEN = (*range(0x80, 0xA0), *map(ord, REORDERING))
# Line ends and tabs do what they say. A carriage return would write over what is there already.
_HARMLESS = {
    **_PICTURES,
    **dict.fromkeys(_HIDDEN, 0xFFFD),
    0x7F: 0x2421,
    ord("\r"): None,
    ord("\n"): "\n",
    ord("\t"): "\t",
}


@dataclass(frozen=True)
class Began:
    """A reply to this question begins."""

    question: str


@dataclass(frozen=True)
class Said:
    """More text of the reply."""

    text: str


@dataclass(frozen=True)
class Void:
    """The reply is written anew, and differs: what was shown of it does not count."""


@dataclass(frozen=True)
class Ended:
    """A reply is over; `note` says what is special about that, if anything is.

    `ours`: it was asked for here. `well`: it came to its end.
    """

    ours: bool
    well: bool
    note: str = ""


@dataclass(frozen=True)
class Refused:
    """What was asked for here is not done."""

    why: str


@dataclass(frozen=True)
class Told:
    """A sentence about the connection or the conversation."""

    text: str


@dataclass(frozen=True)
class Waiting:
    """What is waited for just now; empty: nothing."""

    text: str


Shown = Began | Said | Void | Ended | Refused | Told | Waiting


def harmless(text: str) -> str:
    """Take from text of a stranger's what a terminal would obey.

    Control characters become the pictures of themselves (ESC is ␛), the rest of what hides or
    turns text around becomes U+FFFD. Line ends, tabs and joined emoji stay as they are.
    """
    return text if text.isprintable() else text.translate(_HARMLESS)


def way_back(session_id: str) -> str:
    """Write the option that leads back to a session, to be copied into a shell as it is."""
    return f"--session {shlex.quote(session_id)}"


def place_in_queue(position: int, eta_ms: int | None) -> str:
    """Say where in the queue a turn is."""
    about = f", about {max(round(eta_ms / 1000), 1)} s" if eta_ms is not None else ""
    return f"place {position} in the queue{about}"


def page(history: Json) -> str:
    """Write a page of history for people: oldest first, times of this machine's zone."""
    messages: Sequence[Json] = history["messages"]
    if not messages:
        return "nothing has been said yet"
    lines = [line for message in messages for line in _message(message)]
    earlier = history["total_count"] - len(messages)
    if earlier > 0 and history.get("next_before"):
        lines.insert(0, f"({earlier} earlier messages)")
    return "\n".join(lines)


def _message(message: Json) -> Iterator[str]:
    who = {"user": "you", "assistant": "model"}.get(message["role"], message["role"])
    at = datetime.fromisoformat(message["created_at"]).astimezone()
    ended = message.get("finish_reason") or "stop"
    yield f"{who}, {at:%Y-%m-%d %H:%M}" + (f" ({ended})" if ended != "stop" else "")
    for line in harmless(message["content"]).split("\n"):
        yield f"  {line}"
