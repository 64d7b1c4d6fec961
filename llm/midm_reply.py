"""What midm says of a reply, event by event: its text, and how it ended. Pure."""

from typing import Any

from llm.client import Ending, FinishReason, Say, UpstreamFailed
from llm.midm_chunks import Chunks
from llm.reply import Reply, is_count, parse, usage_of


class MidmReply(Reply):
    """One reply of midm as it is heard."""

    __slots__ = ("_max_new_tokens",)

    def __init__(self, say: Say, *, max_new_tokens: int, max_chars: int) -> None:
        super().__init__(say, chunks=Chunks(), max_chars=max_chars)
        self._max_new_tokens = max_new_tokens

    def _hear_event(self, data: bytes) -> None:
        event = parse(data)
        if not isinstance(event, dict):
            self.ignored += data != b"[DONE]"
            return
        match event.get("type"):
            case "chunk" if isinstance(content := event.get("content"), str):
                told = event.get("token_count")
                self._hear_piece(content, told if is_count(told) else self._pieces + 1)
            case "complete":
                self._end(event.get("total_tokens"))
            case "error":
                # Its words may quote what a user has said, which no log is to hold.
                raise UpstreamFailed("the model server reports an error")
            case kind:
                self.ignored += kind != "start"

    def _end(self, total: Any) -> None:
        self._flush()
        if is_count(total):
            self._pieces = total
        self.ending = Ending(self._finish_reason(self._pieces), self._pieces)
        self.over = True

    def hear_whole(self, answer: object) -> Ending:
        """Take the answer of `/chat`; raises `UpstreamFailed` if there is no reply in it."""
        match answer:
            case {"response": str(response), **rest}:
                usage = usage_of(rest.get("usage"))
            case _:
                raise UpstreamFailed("the model server's answer holds no response")
        self._hear_whole(response)
        reason = self._finish_reason(usage.completion_tokens if usage else 0)
        return Ending(reason, self._pieces, usage)

    def _finish_reason(self, count: int) -> FinishReason:
        return "length" if count >= self._max_new_tokens else "stop"
