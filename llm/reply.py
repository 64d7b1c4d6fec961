"""A reply as it is heard, whatever the wire: bytes in, text said, and how it ended. Pure."""

import json
from abc import ABC, abstractmethod
from typing import Any, NoReturn, Protocol, TypeGuard

from llm.client import Ending, ReplyTooLong, Say, Usage
from protocol import sse
from protocol.text import Storable, storable

_decode = json.JSONDecoder().decode


class Chunks(Protocol):
    """Reads those events of one wire that only bring the next piece of text, as cheaply as can be.

    Returns their text, the count of pieces so far, and how many bytes of `data` that was.
    """

    def read(self, data: bytes) -> tuple[str, int, int]: ...


class Reply(ABC):
    """One reply as it is heard; says its text, and knows how it ended.

    At most `max_chars` code points are said; a reply that goes on raises `ReplyTooLong`. A wire
    says what its other events mean in `_hear_event`.
    """

    __slots__ = (
        *("ending", "over", "ignored", "max_bytes", "_say", "_chars_left", "_pieces"),
        *("_decoder", "_chunks", "_text", "_unsaid"),
    )

    def __init__(self, say: Say, *, chunks: Chunks, max_chars: int) -> None:
        # A character is at most six bytes of JSON, and an event holds the text at most twice.
        self.max_bytes = 12 * max_chars + 4096
        self._decoder = sse.Decoder(max_event_bytes=self.max_bytes)
        self.ending: Ending | None = None
        self.over = False
        """Whether there is nothing more to hear; it may have ended well before that."""
        self.ignored = 0
        self._say = say
        self._chars_left = max_chars
        self._pieces = 0
        self._chunks = chunks
        self._text = Storable()
        self._unsaid = ""

    def hear(self, data: bytes) -> bool:
        """Take the next bytes of the stream, cut anywhere; return whether there was text in them.

        What arrived together is said together: a reader that is behind gets fewer, longer frames.
        Raises `UpstreamFailed` if the server reports an error, and `EventTooLong`; the text before
        that has been said.
        """
        if self._decoder.unfinished:
            return self._hear_rest(data)
        text, count, read = self._chunks.read(data)
        if text:
            self._pieces = count
            text = self._text.feed(text)
        if read == len(data):
            return self._tell(text)
        self._unsaid = text
        return self._hear_rest(data[read:])

    def _hear_rest(self, data: bytes) -> bool:
        try:
            for event in self._decoder.feed(data):
                self._hear(event)
                if self.over:
                    break
        finally:
            unsaid, self._unsaid = self._unsaid, ""
            told = self._tell(unsaid)
        return told

    def _hear(self, data: bytes) -> None:
        # One that came in parts, or after something else, is the next chunk all the same.
        # But for lines that the decoder has joined: these events are one line each.
        framed = b"data: %b\n\n" % data if b"\n" not in data else b""
        text, count, read = self._chunks.read(framed)
        if read:
            self._hear_piece(text, count)
        else:
            self._hear_event(data)

    @abstractmethod
    def _hear_event(self, data: bytes) -> None:
        """Take the data of an event that is more than the next piece of text."""

    def _hear_piece(self, content: str, count: int) -> None:
        if content:
            self._pieces = count
            self._unsaid += self._text.feed(content)

    def _hear_whole(self, text: str) -> None:
        """Take a reply that comes in one piece."""
        self._pieces = 1 if text else 0
        self._tell(storable(text))

    def _flush(self) -> None:
        self._unsaid += self._text.flush()

    def _tell(self, text: str) -> bool:
        """Say a text, as much of it as is allowed; return whether there was any."""
        self._chars_left -= len(text)
        if self._chars_left < 0:
            self._tell_beginning(text[: self._chars_left])
        if text:
            self._say(text, self._pieces)
            return True
        return False

    def _tell_beginning(self, text: str) -> NoReturn:
        if text:
            self._say(text, self._pieces)
        raise ReplyTooLong("the reply is longer than allowed")


def parse(data: bytes) -> object:
    """Parse JSON; return None for what is none, as JSON's own null is nothing to us either."""
    try:
        return _decode(data.decode())
    except (ValueError, RecursionError):
        return None


def is_count(value: Any) -> TypeGuard[int]:
    """Whether a value that was parsed is a whole number from 0 on."""
    return type(value) is int and value >= 0  # bool is an int, too


def usage_of(found: Any) -> Usage | None:
    """Read a `usage` object; None for anything else. A missing total is the sum."""
    match found:
        case {"prompt_tokens": prompt, "completion_tokens": completion, **rest}:
            if is_count(prompt) and is_count(completion):
                total = rest.get("total_tokens", prompt + completion)
                return Usage(prompt, completion, total) if is_count(total) else None
    return None
