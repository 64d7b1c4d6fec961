"""What midm says of a reply, event by event: its text, and how it ended. Pure."""

import json
from typing import Any, NoReturn, TypeGuard

from llm.client import Ending, FinishReason, ReplyTooLong, Say, UpstreamFailed, Usage
from llm.midm_chunks import Chunks
from protocol import sse
from protocol.text import Storable, storable

_decode = json.JSONDecoder().decode


class Reply:
    """One reply as it is heard; says its text, and knows how it ended.

    At most `max_chars` code points are said; a reply that goes on raises `ReplyTooLong`.
    """

    __slots__ = (
        *("ending", "ignored", "max_bytes", "_say", "_max_new_tokens", "_chars_left", "_pieces"),
        *("_decoder", "_chunks", "_text", "_unsaid"),
    )

    def __init__(self, say: Say, *, max_new_tokens: int, max_chars: int) -> None:
        # A character is at most six bytes of JSON, and an event holds the text at most twice.
        self.max_bytes = 12 * max_chars + 4096
        self._decoder = sse.Decoder(max_event_bytes=self.max_bytes)
        self.ending: Ending | None = None
        self.ignored = 0
        self._say = say
        self._max_new_tokens = max_new_tokens
        self._chars_left = max_chars
        self._pieces = 0
        self._chunks = Chunks()
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
                if self.ending is not None:
                    break
        finally:
            unsaid, self._unsaid = self._unsaid, ""
            told = self._tell(unsaid)
        return told

    def _hear(self, data: bytes) -> None:
        # One that came in parts, or after something else, is the next chunk all the same.
        # But for lines that the decoder has joined: midm's events are one line each.
        framed = b"data: %b\n\n" % data if b"\n" not in data else b""
        text, count, read = self._chunks.read(framed)
        if read:
            self._hear_piece(text, count)
            return
        event = parse(data)
        if not isinstance(event, dict):
            self.ignored += data != b"[DONE]"
            return
        match event.get("type"):
            case "chunk" if isinstance(content := event.get("content"), str):
                told = event.get("token_count")
                self._hear_piece(content, told if _is_count(told) else self._pieces + 1)
            case "complete":
                self._end(event.get("total_tokens"))
            case "error":
                # Its words may quote what a user has said, which no log is to hold.
                raise UpstreamFailed("the model server reports an error")
            case kind:
                self.ignored += kind != "start"

    def _hear_piece(self, content: str, count: int) -> None:
        if content:
            self._pieces = count
            self._unsaid += self._text.feed(content)

    def _end(self, total: Any) -> None:
        self._unsaid += self._text.flush()
        if _is_count(total):
            self._pieces = total
        self.ending = Ending(self._finish_reason(self._pieces), self._pieces)

    def hear_whole(self, answer: object) -> Ending:
        """Take the answer of `/chat`; raises `UpstreamFailed` if there is no reply in it."""
        match answer:
            case {"response": str(response), **rest}:
                usage = _usage(rest.get("usage"))
            case _:
                raise UpstreamFailed("the model server's answer holds no response")
        self._pieces = 1 if response else 0
        self._tell(storable(response))
        reason = self._finish_reason(usage.completion_tokens if usage else 0)
        return Ending(reason, self._pieces, usage)

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

    def _finish_reason(self, count: int) -> FinishReason:
        return "length" if count >= self._max_new_tokens else "stop"


def parse(data: bytes) -> object:
    """Parse JSON; return None for what is none, as JSON's own null is nothing to us either."""
    try:
        return _decode(data.decode())
    except (ValueError, RecursionError):
        return None


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and value >= 0  # bool is an int, too


def _usage(found: Any) -> Usage | None:
    match found:
        case {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}:
            if all(map(_is_count, (prompt, completion, total))):
                return Usage(prompt, completion, total)
    return None
