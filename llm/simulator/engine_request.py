"""What an OpenAI-compatible engine makes of a request body; fields it does not know are ignored."""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from llm.simulator.engine_wire import MODEL
from llm.simulator.request import ChatRequest, Message, Refused

DEFAULT_TOKENS = 4096
"""What a reply may come to if nobody says how long; no simulated one is as long."""


class _StreamOptions(BaseModel):
    include_usage: bool = False


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True)

    model: str
    messages: list[Message]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    stream: bool = False
    stream_options: _StreamOptions | None = None


@dataclass(frozen=True)
class Asked:
    """A request: what to reply to, and in which form."""

    chat: ChatRequest
    stream: bool
    usage: bool
    """Whether a stream ends with its usage."""


def parse_completion_request(body: bytes) -> Asked:
    """The request in `body`; raise `Refused`, with 404 for a model that is not served."""
    try:
        asked = _Body.model_validate_json(body)
    except ValidationError as invalid:
        raise Refused(400, _sentence(invalid.errors())) from None
    if asked.model != MODEL:
        raise Refused(404, f"The model `{asked.model}` does not exist.")
    limit = asked.max_completion_tokens or asked.max_tokens
    temperature = 1.0 if asked.temperature is None else asked.temperature
    chat = ChatRequest(
        messages=asked.messages,
        max_new_tokens=DEFAULT_TOKENS if limit is None else limit,
        temperature=temperature,
        do_sample=temperature != 0,
    )
    options = asked.stream_options
    return Asked(chat, asked.stream, options is not None and options.include_usage)


def _sentence(errors: list[Any]) -> str:
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in errors)
