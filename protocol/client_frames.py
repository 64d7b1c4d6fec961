"""What a client may say on a WebSocket: JSON frames, and the shorthands for typing by hand."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from protocol.chat import (
    MAX_REQUEST_ID_CHARS,
    ChatFields,
    Model,
    OptionalRequestId,
    RegenerateFields,
    Text,
    TurnNumber,
)
from protocol.errors import ErrorCode, Refusal
from protocol.invalid import MAX_DEPTH, parse_json, refusal, shown
from protocol.text import printable, storable

MAX_HISTORY = 1_000
HistoryLimit = Annotated[int, Field(ge=1, le=MAX_HISTORY)]

HELP = """\
Type a message and press Enter to send it.
/cancel         stop the reply that is being written
/regenerate     ask the last question again
/history 20     show the newest 20 messages
/ping           see whether the server answers
//text          send a message that begins with a slash"""


class Chat(ChatFields):
    """A message to be answered; with `replaces`, an edit of that turn."""

    type: Literal["chat"] = "chat"


class Regenerate(RegenerateFields):
    """The same message asked again, in place of the turn that asked it."""

    type: Literal["regenerate"] = "regenerate"


class Cancel(Model):
    """Stop a queued or running turn: the partial reply is kept."""

    type: Literal["cancel"] = "cancel"
    turn: TurnNumber | None = Field(
        default=None,
        description="Which one to stop; left out: the open one. Programs name it, so that they"
        " never stop a turn that they have not seen.",
    )
    request_id: OptionalRequestId = None


class GetHistory(Model):
    """The newest messages, or those before a message."""

    type: Literal["history"] = "history"
    limit: HistoryLimit | None = Field(
        default=None, description="At most so many messages; left out: 100."
    )
    before: Text | None = Field(
        default=None, description="A `message_id`: only messages older than that one."
    )
    request_id: OptionalRequestId = None


class Auth(Model):
    """Credentials: as the first frame, or to renew them later."""

    type: Literal["auth"] = "auth"
    token: Text = Field(description="An API key or a token, without `Bearer`.")


class Ping(Model):
    """Answered by `pong`."""

    type: Literal["ping"] = "ping"
    request_id: OptionalRequestId = None


class GetHelp(Model):
    """What can be typed by hand."""

    type: Literal["help"] = "help"


ClientFrame = Chat | Regenerate | Cancel | GetHistory | Auth | Ping | GetHelp

_MODELS: dict[str, type[ClientFrame]] = {
    "chat": Chat,
    "regenerate": Regenerate,
    "cancel": Cancel,
    "history": GetHistory,
    "auth": Auth,
    "ping": Ping,
    "help": GetHelp,
}
# What may follow a shorthand, as the name of the field it fills.
_SHORTHANDS = {
    "cancel": "turn",
    "regenerate": "turn",
    "history": "limit",
    "ping": "request_id",
    "help": None,
}


def parse_client_frame(text: str, *, max_depth: int = MAX_DEPTH) -> ClientFrame:
    """Read one text frame, nested at most so deeply.

    Raises `Refusal`: `bad_json`, `unknown_type`, `message_too_long`, or `bad_frame` with the
    name of each field at fault. The refusal carries the frame's `request_id` where it has one.
    """
    fields = _json_fields(text, max_depth) if text.startswith("{") else _typed_fields(text)
    request_id = _usable_request_id(fields.get("request_id"))
    kind = fields.get("type")
    model = _MODELS.get(kind) if isinstance(kind, str) else None
    if model is None:
        says = f"type: should be one of {', '.join(_MODELS)}, given {shown(kind)}"
        raise Refusal(ErrorCode.UNKNOWN_TYPE, says, request_id=request_id)
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise refusal(error, request_id=request_id) from None


def _json_fields(text: str, max_depth: int) -> dict[str, Any]:
    # Text that starts with a brace and parses is an object: nothing else starts so.
    fields: dict[str, Any] = parse_json(text, max_depth=max_depth)
    return fields


def _typed_fields(text: str) -> dict[str, Any]:
    if text.startswith("//"):
        return {"type": "chat", "message": text[1:]}
    if not text.startswith("/"):
        return {"type": "chat", "message": text}
    name, *argument = text[1:].split(maxsplit=1) or [""]
    if name not in _SHORTHANDS:
        raise Refusal(
            ErrorCode.UNKNOWN_TYPE,
            f"There is no /{printable(name[:20])}; known are /{', /'.join(_SHORTHANDS)}. "
            "A message that begins with a slash is sent with two.",
        )
    if not argument:
        return {"type": name}
    if (field := _SHORTHANDS[name]) is None:
        raise Refusal(ErrorCode.BAD_FRAME, f"/{name} takes nothing after it")
    return {"type": name, field: argument[0].rstrip()}


def _usable_request_id(value: Any) -> str | None:
    request_id = storable(value) if isinstance(value, str) else ""
    return request_id if 1 <= len(request_id) <= MAX_REQUEST_ID_CHARS else None
