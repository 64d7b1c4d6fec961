"""Which messages hold what is looked for: the same on every database, as none is asked.

What databases offer falls short here: their `LIKE` and `lower` differ and depend on a locale, none
of them sees that two forms of one syllable are the same text, and an index of trigrams has no use
for a word of two syllables, as most Korean ones are.
"""

import re
from collections.abc import Iterable
from unicodedata import normalize

from storage.operations import Row

# The ypogegrammeni, and what it is a part of: a mark that becomes a letter when it is folded.
_IOTA_BELOW = re.compile("[\u0345\u1f80-\u1fff]")


def folded(text: str) -> str:
    """Fold a text so that those compare equal that differ in case or normal form alone.

    It is canonical caseless matching (Unicode, section 3.13, D145), composed in the end: a
    syllable of Hangul is whole, and 하 is not found in 한.
    """
    if text.isascii():
        return text.lower()
    if _IOTA_BELOW.search(text):
        text = normalize("NFD", text)
    return normalize("NFC", text.casefold())


class Words:
    """Words that a text holds all of, in any order, each of them anywhere, within a word too.

    >>> Words("날씨 SEOUL").are_in("Seoul의 날씨는?")
    True
    """

    def __init__(self, query: str) -> None:
        self._words = tuple(dict.fromkeys(map(folded, query.split())))

    def are_in(self, text: str) -> bool:
        """Whether a text holds all of them."""
        where = folded(text)
        return all(word in where for word in self._words)

    def among(self, rows: Iterable[Row]) -> list[Row]:
        """Keep the rows whose message holds all of them."""
        return [row for row in rows if self.are_in(row["content"])]
