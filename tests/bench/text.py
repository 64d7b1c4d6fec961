"""The text of a turn, as `common.h` makes it: the same words from the same numbers."""

import json
import re
from pathlib import Path

HERE = Path(__file__).parent
_WORD = 0xFFFFFFFF


def _vocabulary() -> tuple[str, ...]:
    source = (HERE / "common.h").read_text()
    table = source.partition("VOCAB[] = {")[2].partition("};")[0]
    # What C and JSON escape in these words, they escape alike.
    return tuple(json.loads(literal) for literal in re.findall(r'"(?:[^"\\]|\\.)*"', table))


VOCABULARY = _vocabulary()


def token_text(slot: int, turn: int, index: int) -> str:
    """Return a token of a turn; the first one names client and turn."""
    if index == 0:
        return f"[s{slot}/t{turn}]"
    mixed = (slot + 1) * 2654435761 ^ (turn + 7) * 40503 ^ index * 2246822519
    mixed &= _WORD
    mixed ^= mixed >> 15
    mixed = mixed * 2654435769 & _WORD
    mixed ^= mixed >> 13
    return VOCABULARY[mixed % len(VOCABULARY)]


def reply_text(slot: int, turn: int, tokens: int) -> str:
    """Return all of what the upstream says in a turn."""
    return "".join(token_text(slot, turn, index) for index in range(tokens))
