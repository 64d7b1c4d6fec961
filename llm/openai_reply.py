"""What OpenAI-compatible engines say of a reply, chunk by chunk. Pure.

Two real ones disagree on almost everything: success is a chunk with a `finish_reason`, nothing
else. `usage` may stand in that chunk, in one of its own behind it, in all, or in none.
"""

from typing import Any

from llm.client import Ending, FinishReason, Say, UpstreamFailed, Usage
from llm.openai_chunks import Chunks
from llm.openai_words import reported
from llm.reply import Reply, parse, usage_of

_BROKEN_OFF = ("abort", "error")
"""Reasons by which an engine says that the reply did not come to an end: vLLM's and a router's."""


class OpenAiReply(Reply):
    """One reply of an OpenAI-compatible engine as it is heard.

    It is over only when its usage or the end of the stream is there, too. An engine that never
    tells its usage costs no wait: `[DONE]`, or the end, comes at once.
    """

    __slots__ = ("_frames", "_usage")

    def __init__(self, say: Say, *, max_chars: int) -> None:
        self._frames = Chunks()
        super().__init__(say, chunks=self._frames, max_chars=max_chars)
        self._usage: Usage | None = None

    def _hear_event(self, data: bytes) -> None:
        event = parse(data)
        if isinstance(event, dict):
            self._hear_chunk(event, data)
        elif data.strip() == b"[DONE]":
            self.over = True
        else:
            self.ignored += 1

    def _hear_chunk(self, event: dict[str, Any], data: bytes) -> None:
        if (error := reported(event)) is not None:
            raise error
        choice = _first_choice(event)
        content = _text_of(choice.get("delta"))
        if content:
            self._frames.count += 1
            self._hear_piece(content, self._frames.count)
        self._usage = usage_of(event.get("usage")) or self._usage
        if (reason := choice.get("finish_reason")) is not None:
            self._end(reason)
        elif content and not event.get("usage"):
            self._frames.learn(data, content)
        if self.ending is not None:
            self._complete(self.ending.finish_reason)

    def _end(self, reason: Any) -> None:
        self._flush()
        self.ending = Ending(_finish_reason(reason), self._pieces)

    def _complete(self, reason: FinishReason) -> None:
        self.ending = Ending(reason, self._pieces, self._usage)
        self.over = self._usage is not None

    def hear_whole(self, answer: object) -> Ending:
        """Take an answer that was not streamed; raises `UpstreamError` if it holds no reply."""
        if not isinstance(answer, dict):
            raise UpstreamFailed("the model server's answer is no JSON object")
        if (error := reported(answer)) is not None:
            raise error
        choice = _first_choice(answer)
        if (reason := choice.get("finish_reason")) is None:
            raise UpstreamFailed("the model server's answer holds no finished reply")
        finish_reason = _finish_reason(reason)
        self._hear_whole(_text_of(choice.get("message")))
        return Ending(finish_reason, self._pieces, usage_of(answer.get("usage")))


def _first_choice(event: dict[str, Any]) -> dict[str, Any]:
    """Find the one choice that was asked for; an empty one where `choices` is empty or missing."""
    match event.get("choices"):
        case [dict(choice), *_]:
            return choice
    return {}


def _text_of(said: Any) -> str:
    """Find the text of a `delta` or `message`; what a model thinks aloud is none of the reply.

    It is a string, or, as of Mistral's API, a list of parts of which some have a `text`.
    """
    match said:
        case {"content": str(content)}:
            return content
        case {"content": [*parts]}:
            return "".join(map(_text_of_part, parts))
    return ""


def _text_of_part(part: Any) -> str:
    match part:
        case {"type": "text", "text": str(text)}:
            return text
    return ""


def _finish_reason(reason: Any) -> FinishReason:
    if reason in _BROKEN_OFF:
        raise UpstreamFailed("the model server broke the reply off")
    return "length" if reason == "length" else "stop"
