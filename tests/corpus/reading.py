"""A kept corpus of what anybody may send: frames and bodies, each of them odd in a way of its own.

Every line of the files beside this one is an object with a `name` and what is sent, written as one
of these, of which all but the first are for what JSON cannot say or nobody would scroll past:

- `text`: sent as UTF-8; `$session` in it stands for a session that exists
- `parts`: texts, and pairs of a text and how many times it is repeated, one after the other
- `base64`: the bytes themselves

Whatever breaks something is added, and stays.
"""

import json
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parent
FILES = sorted(DIRECTORY.glob("*.jsonl"))


@dataclass(frozen=True)
class Sample:
    """What is sent, as bytes, and what it is called."""

    name: str
    data: bytes

    @property
    def text(self) -> str | None:
        """What it says; None if it is no UTF-8."""
        try:
            return self.data.decode()
        except UnicodeDecodeError:
            return None

    def about(self, session_id: str) -> bytes:
        """Say it of a session that exists."""
        return self.data.replace(b"$session", session_id.encode())


def corpus() -> Iterator[Sample]:
    """Read all samples."""
    for file in FILES:
        for line in file.read_text().split("\n"):
            if line:
                entry = json.loads(line)
                yield Sample(f"{file.stem}: {entry['name']}", _data(entry))


def _data(entry: dict[str, Any]) -> bytes:
    match entry:
        case {"text": str(text)}:
            return text.encode()
        case {"parts": list(parts)}:
            return "".join(map(_part, parts)).encode()
        case {"base64": str(encoded)}:
            return b64decode(encoded)
    raise ValueError(f"{entry['name']}: nothing to send")


def _part(part: Any) -> str:
    match part:
        case str():
            return part
        case [str(text), int(times)]:
            return text * times
    raise ValueError(f"neither a text nor a repeated one: {part!r}")
