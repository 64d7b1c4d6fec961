"""What midm says of a reply, event by event: its text, and how it ended. Pure."""

import json
import logging
from typing import Any, TypeGuard

from llm.client import Ending, FinishReason, ReplyTooLong, Say, UpstreamFailed, Usage
from llm.midm_chunks import Chunks
from protocol.text import Storable, storable

logger = logging.getLogger(__name__)

_decode = json.JSONDecoder().decode


class Reply:
    """One reply as it is heard; says its text, and knows how it ended.

    At most `max_chars` code points are said; a reply that goes on raises `ReplyTooLong`.
    """

    def __init__(self, say: Say, *, max_new_tokens: int, max_chars: int) -> None:
        self.ending: Ending | None = None
        self.ignored = 0
        self._say = say
        self._max_new_tokens = max_new_tokens
        self._chars_left = max_chars
        self._pieces = 0
        self._chunks = Chunks()
        self._text = Storable()
        self._unsaid = ""

    def hear(self, events: list[bytes]) -> bool:
        """Take the next events, up to the end of the reply; return whether text was among them.

        What arrived together is said together: a reader that is behind gets fewer, longer frames.
        Raises `UpstreamFailed` if the server reports an error; the text before it has been said.
        """
        try:
            for event in events:
                if chunk := self._chunks.read(event):
                    self._hear_piece(*chunk)
                    continue
                self._hear(event)
                if self.ending is not None:
                    break
        finally:
            heard, self._unsaid = self._unsaid, ""
            self._tell(heard)
        return bool(heard)

    def _hear(self, data: bytes) -> None:
        event = parse(data)
        if not isinstance(event, dict):
            self.ignored += data != b"[DONE]"
            return
        match event.get("type"):
            case "chunk" if isinstance(content := event.get("content"), str):
                count = event.get("token_count")
                self._hear_piece(content, count if _is_count(count) else self._pieces + 1)
            case "complete":
                self._end(event.get("total_tokens"))
            case "error":
                logger.debug("the model server reports: %r", event.get("message"))
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

    def _tell(self, text: str) -> None:
        """Say the text, as much of it as is allowed."""
        told = text[: self._chars_left]
        self._chars_left -= len(told)
        if told:
            self._say(told, self._pieces)
        if len(told) < len(text):
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
