"""The bytes of an OpenAI-compatible engine's replies, as vLLM writes them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from llm.simulator.plan import Ending
from llm.simulator.wire import DONE, json_body

MODEL = "simulated"
MODELS = json_body(
    {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "simulator"}]}
)

_ABOUT = {"id": "chatcmpl-simulated", "object": "chat.completion.chunk", "created": 0}


def _event(fields: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % json_body(fields)


def _chunk(delta: dict[str, str], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    return _event(_ABOUT | {"model": MODEL, "choices": [choice]})


FIRST = _chunk({"role": "assistant", "content": ""})


def chunk_events(pieces: Iterable[str]) -> Iterator[bytes]:
    """The chunk of each piece."""
    return (_chunk({"content": piece}) for piece in pieces)


def last_events(
    ending: Ending, reason: str, *, usage: dict[str, int] | None, message: str
) -> Sequence[bytes]:
    """What follows the last piece; usage is a chunk of its own."""
    match ending:
        case Ending.COMPLETE:
            told = [_event(_ABOUT | {"model": MODEL, "choices": [], "usage": usage})]
            return [_chunk({}, reason), *(told if usage is not None else []), DONE]
        case Ending.ERROR:
            return [b"data: %b\n\n" % error(500, message)]
        case _:
            return []


def completion(text: str, reason: str, usage: dict[str, int]) -> bytes:
    """The answer that is not streamed."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    about = _ABOUT | {"object": "chat.completion", "model": MODEL}
    return json_body(about | {"choices": [choice], "usage": usage})


def error(status: int, message: str) -> bytes:
    """An error, as a body or as an event."""
    return json_body({"error": {"message": message, "type": "simulated", "code": status}})
