"""Reading the chunks of an OpenAI-compatible stream that differ in their text alone. Pure."""

import json
import re

# One JSON string without a raw control character, which JSON forbids; escapes are judged later.
_TEXT = re.compile(rb'[^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*').match
_CONTENT = re.compile(rb'"content": ?"([^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*)"')
_ENDS = (b"\n\n", b"\r\n\r\n")
_decode = json.JSONDecoder().decode


class Chunks:
    r"""Reads chunks that are, byte for byte, one that was parsed before, but for their text.

    >>> chunks = Chunks()
    >>> chunks.learn(b'{"choices":[{"delta":{"content":"a"}}],"id":"1"}', "a")
    >>> chunks.read(b'data: {"choices":[{"delta":{"content":"b"}}],"id":"1"}\n\n')
    ('b', 1, 56)

    Engines order their fields as they please and repeat 200 bytes of them for each token. What
    stands around the text is compared, which is a third of the price of parsing it. Whatever is
    different, be it a `finish_reason` or the time in `created`, is left to a parser.
    """

    __slots__ = ("_after", "_before", "count")

    def __init__(self) -> None:
        self.count = 0
        self._before = b""
        self._after = b""

    def learn(self, event: bytes, content: str) -> None:
        """Remember the frame of an event that brought this text and nothing else.

        A quote inside a JSON string is escaped, so `"content":` is always a name; if it is there
        once, it is the name of the text.
        """
        found = _CONTENT.search(event)
        if found is None or _CONTENT.search(event, found.end()) or _read(found[1]) != content:
            self._before = b""
            return
        self._before = b"data: " + event[: found.start(1)]
        self._after = event[found.end(1) :]

    def read(self, data: bytes) -> tuple[str, int, int]:
        """Read whole events as long as each is the same again but for its text.

        Returns their text, the count of pieces so far, and how many bytes of `data` that was.
        """
        text, end, before, after = "", 0, self._before, self._after
        while before and data.startswith(before, end):
            begin = end + len(before)
            stop = _TEXT(data, begin).end()  # type: ignore[union-attr] # it matches nothing, too
            if not data.startswith(after, stop):
                break
            over = stop + len(after)
            ending = next((each for each in _ENDS if data.startswith(each, over)), None)
            content = _read(data[begin:stop])
            if ending is None or content is None:
                break
            text += content
            self.count += content != ""
            end = over + len(ending)
        return text, self.count, end


def _read(string: bytes) -> str | None:
    """Decode what stands between the quotes of a JSON string; None if that is none."""
    try:
        return str(_decode(f'"{string.decode()}"')) if b"\\" in string else string.decode()
    except ValueError:  # not UTF-8, or an escape that JSON does not have
        return None
