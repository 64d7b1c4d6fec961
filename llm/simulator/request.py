"""What midm makes of a request body: FastAPI's validation, its errors word for word.

The shapes and texts are those of the recorded `chat_in_*` and `stream_in_*` cases.
"""

import json
import re
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

HF_DEFAULT_TOKENS = 20
"""What `max_new_tokens: null` comes to: the default length of the library that generates."""

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Message(BaseModel):
    """One message of a conversation; midm drops the text of roles it does not know."""

    model_config = ConfigDict(frozen=True)

    role: str
    content: str


class ChatRequest(BaseModel):
    """The body of `/chat` and `/chat/stream`, with midm's defaults; extra fields are ignored."""

    model_config = ConfigDict(frozen=True)

    messages: list[Message]
    max_new_tokens: int | None = 128
    temperature: float | None = 1.0
    do_sample: bool | None = False

    def token_limit(self) -> int:
        """The most pieces that the reply may have."""
        return HF_DEFAULT_TOKENS if self.max_new_tokens is None else self.max_new_tokens


class Refused(Exception):
    """A body that is answered with `status` and `{"detail": detail}`."""

    def __init__(self, status: int, detail: str | list[dict[str, Any]]) -> None:
        self.status = status
        self.detail = detail
        super().__init__(f"{status}: {detail}")


def parse_chat_request(body: bytes, *, content_type: str) -> ChatRequest:
    """The request in `body`; raise `Refused`."""
    if not body:
        raise Refused(422, [error("missing", ["body"], "Field required", None)])
    try:
        return ChatRequest.model_validate(_content(body, content_type), from_attributes=True)
    except ValidationError as invalid:
        raise Refused(422, [_located(each) for each in invalid.errors()]) from None


def impossible(request: ChatRequest) -> str | None:
    """What the tokenizer says to messages it cannot take, or None if it can."""
    if not request.messages:
        return "list index out of range"
    if any(_LONE_SURROGATE.search(message.content) for message in request.messages):
        return (
            "TextEncodeInput must be Union[TextInputSequence, Tuple[InputSequence, InputSequence]]"
        )
    return None


def fatal(request: ChatRequest) -> str | None:
    """What generation says to settings it cannot take: midm's streams freeze on them. Or None."""
    if request.token_limit() <= 0:
        return f"`max_new_tokens` must be greater than 0, but is {request.max_new_tokens}."
    temperature = request.temperature
    if not request.do_sample or temperature is None or not temperature <= 0:
        return None
    complaint = (
        f"`temperature` (={temperature}) has to be a strictly positive float, otherwise your next"
        " token scores will be invalid."
    )
    if temperature == 0:
        complaint += " If you're looking for greedy decoding strategies, set `do_sample=False`."
    return complaint


def _content(body: bytes, content_type: str) -> Any:
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type != "application/json":
        return body.decode("utf-8", "replace")
    try:
        return json.loads(body)
    except json.JSONDecodeError as bad:
        detail = error("json_invalid", ["body", bad.pos], "JSON decode error", {})
        raise Refused(422, [detail | {"ctx": {"error": bad.msg}}]) from None
    except (UnicodeDecodeError, RecursionError):
        raise Refused(400, "There was an error parsing the body") from None


def _located(invalid: ErrorDetails) -> dict[str, Any]:
    return error(invalid["type"], ["body", *invalid["loc"]], invalid["msg"], invalid["input"])


def error(kind: str, loc: list[str | int], msg: str, given: Any) -> dict[str, Any]:
    """One entry of a 422's `detail`, its fields in pydantic's order."""
    return {"type": kind, "loc": loc, "msg": msg, "input": given}
