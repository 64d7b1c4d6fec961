"""Text as it may enter the log: what no database, socket or terminal chokes on.

Lone surrogates cannot be encoded as UTF-8 and NUL cannot be stored by PostgreSQL. Both become
U+FFFD here, before any offset is counted, so that offsets mean the same everywhere afterwards.
"""

import json
import re

REPLACEMENT = "\ufffd"
REORDERING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""What changes the order in which a line is read (UAX #9, section 2)."""

_PAIR_OR_UNSTORABLE = re.compile("[\ud800-\udbff][\udc00-\udfff]|[\ud800-\udfff\0]")


def _mend(match: re.Match[str]) -> str:
    found = match.group()
    if len(found) == 1:
        return REPLACEMENT
    high, low = map(ord, found)
    return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))


def storable(text: str) -> str:
    """Join surrogate pairs; replace lone surrogates and NUL by U+FFFD."""
    if text.isascii() and "\0" not in text:
        return text
    return _PAIR_OR_UNSTORABLE.sub(_mend, text)


def printable(text: str) -> str:
    """Write what a terminal would obey or hide as JSON escapes it: line ends, colours, overrides.

    For text of a stranger's within a sentence of ours, which may end up in a log.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


class Storable:
    """Makes a text storable that arrives in pieces.

    A high surrogate at the end of a piece waits for the low one at the start of the next:

    >>> text = Storable()
    >>> text.feed("a\\ud83d"), text.feed("\\ude00b"), text.flush()
    ('a', '😀b', '')
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> str:
        """Take the next piece; return what of the text so far can enter the log."""
        if not self._held and piece.isprintable():
            return piece  # nearly every piece: neither a surrogate nor NUL is printable
        piece = self._held + piece
        self._held = ""
        if piece and "\ud800" <= piece[-1] <= "\udbff":
            self._held, piece = piece[-1], piece[:-1]
        return storable(piece)

    def flush(self) -> str:
        """Return what was still held back when the text ended."""
        held, self._held = self._held, ""
        return storable(held)


def count_words(text: str) -> int:
    """Count what midm would stream as pieces, where no count was kept."""
    return len(text.split())
