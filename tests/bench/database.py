"""What a contender stored, held against what the upstream said."""

import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from tests.bench.loads import Load
from tests.bench.text import reply_text

Stored = tuple[str, str | None]
"""A question and its reply, as they stand in the file."""

_MARKER = re.compile(r"#midm slot=(\d+) turn=(\d+) tokens=(\d+) ")


def stored_turns(database: Path, query: str) -> list[Stored]:
    """Read all turns of a file that nobody has open any more."""
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(query).fetchall()


def faults(stored: Iterable[Stored], load: Load) -> list[str]:
    """Say what is wrong: a reply with a wrong character, and turns that are there not just once."""
    found: list[str] = []
    times: Counter[tuple[int, int]] = Counter()
    for question, reply in stored:
        marker = _MARKER.search(question)
        if marker is None:
            found.append(f"the database has a question that nobody asked: {question[:80]!r}")
            continue
        slot, turn, tokens = map(int, marker.groups())
        times[slot, turn] += 1
        if reply != reply_text(slot, turn, tokens):
            found.append(f"the database has a wrong reply to client {slot}, turn {turn}")
    return [*found, *_not_once(times, load)]


def _not_once(times: Counter[tuple[int, int]], load: Load) -> Iterator[str]:
    for slot in range(load.clients):
        for turn in range(load.turns):
            if times[slot, turn] != 1:
                count = times[slot, turn]
                yield f"the database has client {slot}, turn {turn} {count} times"
