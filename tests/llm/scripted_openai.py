"""An OpenAI-compatible engine that says what a test tells it to, on a real socket.

    async with ScriptedEngine() as engine:
        ...                                  # something asks engine.url for a stream
        call = await engine.call()
        await call.say("안녕 ")
        await call.complete()

It writes as vLLM does: usage in a chunk of its own, behind the one with the reason.
"""

import json
from typing import Any

from tests.llm.scripted import Call, Messages, ScriptedModel

USAGE = {"prompt_tokens": 74, "completion_tokens": 6, "total_tokens": 80}
MODELS = {"object": "list", "data": [{"id": "midm", "object": "model"}]}


def event(fields: dict[str, Any]) -> bytes:
    """One event with this JSON."""
    return (
        b"data: " + json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
    )


def delta(said: dict[str, Any], reason: Any = None, **fields: Any) -> bytes:
    """One chunk of a reply."""
    choice = {"index": 0, "delta": said, "logprobs": None, "finish_reason": reason}
    about = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "midm"}
    return event(about | {"choices": [choice]} | fields)


def piece(content: str) -> bytes:
    """One chunk that brings text."""
    return delta({"content": content})


class EngineCall(Call):
    """One request that the engine has received and not answered yet."""

    def _first(self) -> bytes:
        return delta({"role": "assistant", "content": ""})

    async def say(self, *pieces: str) -> None:
        for content in pieces:
            self.text += content
            await self.raw(piece(content))

    async def complete(self, reason: Any = "stop", *, usage: dict[str, int] | None = USAGE) -> None:
        """Send the chunk with the reason, one with the usage if it was asked for, and `[DONE]`."""
        ends = [delta({}, reason)]
        if usage is not None and self.body.get("stream_options"):
            ends.append(event({"id": "chatcmpl-1", "choices": [], "usage": usage}))
        await self._finish(*ends, b"data: [DONE]\n\n")

    async def error(self, message: str = "broken") -> None:
        await self._finish(event({"error": {"message": message, "code": 500}}))

    async def answer(self, text: str, *, usage: dict[str, Any] | None = None) -> None:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        await self.json({"choices": [choice], "usage": USAGE if usage is None else usage})

    async def refuse(self, code: int, fields: Any) -> None:
        """Answer with this status and JSON."""
        body = fields if isinstance(fields, str) else json.dumps(fields, ensure_ascii=False)
        await self._whole(code, "application/json", body.encode())


class ScriptedEngine(ScriptedModel):
    """An engine on 127.0.0.1, open within `async with`.

    `models` is what it lists; `listing` and `loading` are the statuses of `/v1/models` and
    `/health`. Where None stands it does not answer.
    """

    makes = EngineCall

    def __init__(self) -> None:
        super().__init__()
        self.models: Any = MODELS
        self.listing = 200
        self.loading: int | None = 404
        self.listed = 0

    async def call(self) -> EngineCall:
        call = await super().call()
        assert isinstance(call, EngineCall)
        return call

    async def _answer_health(self, call: Call) -> None:
        assert isinstance(call, EngineCall)
        match call.path.endswith("/v1/models"):
            case True if self.models is not None:
                self.listed += 1
                await call.refuse(self.listing, self.models)
            case False if self.loading is not None:
                await call.refuse(self.loading, {})
            case _:
                await call.closed()

    async def _autoreply(self, call: Call, messages: Messages) -> None:
        assert self._reply is not None
        pieces = self._reply(messages)
        if call.body["stream"]:
            await call.say(*pieces)
            await call.complete()
        else:
            await call.answer("".join(pieces))
