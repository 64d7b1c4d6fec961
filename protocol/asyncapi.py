"""The AsyncAPI 3.0 document: the WebSocket in both directions, and the two event streams.

It is written from the gateway's side: it receives what clients send, and sends the rest.
"""

from dataclasses import dataclass
from typing import Literal

from protocol.about import NAME, VERSION
from protocol.chat import Model
from protocol.client_frames import (
    Auth,
    Cancel,
    Chat,
    GetHelp,
    GetHistory,
    Ping,
    Regenerate,
)
from protocol.cursor import PATTERN
from protocol.errors import CATALOGUE, CLOSES
from protocol.examples import EXAMPLES, payload
from protocol.schema import CLIENT_FRAMES, Json, described, frame_definitions, kind_of
from protocol.server_frames import (
    PROTOCOL,
    SERVER_FRAMES,
    Accepted,
    Complete,
    Error,
    Help,
    History,
    Pong,
    Queued,
    Ready,
    Reconnect,
    ServerPing,
    Start,
    Token,
)

_DEFINED = "#/components/schemas/{model}"
_LOG = (Start, Queued, Token, Complete, Error)
_CURSOR = {"type": "string", "pattern": f"^{PATTERN}$".replace(r"\d", "[0-9]")}


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What the gateway does on a channel; `replies` is what may answer what it receives."""

    name: str
    action: Literal["receive", "send"]
    channel: Literal["ws", "sessionEvents", "turnEvents"]
    messages: tuple[type[Model], ...]
    summary: str
    replies: tuple[type[Model], ...] = ()


OPERATIONS = (
    Operation(
        name="chat",
        action="receive",
        channel="ws",
        messages=(Chat,),
        summary="Take a message and answer it; what comes of it is told to the whole session.",
        replies=(Accepted, Error),
    ),
    Operation(
        name="regenerate",
        action="receive",
        channel="ws",
        messages=(Regenerate,),
        summary="Answer a message once more, in place of its turn.",
        replies=(Accepted, Error),
    ),
    Operation(
        name="cancel",
        action="receive",
        channel="ws",
        messages=(Cancel,),
        summary="Stop a turn: `complete` tells the whole session. An error is for the sender.",
        replies=(Complete, Error),
    ),
    Operation(
        name="readHistory",
        action="receive",
        channel="ws",
        messages=(GetHistory,),
        summary="Show a page of the history.",
        replies=(History, Error),
    ),
    Operation(
        name="authenticate",
        action="receive",
        channel="ws",
        messages=(Auth,),
        summary="Learn who it is. The first frame is answered by `ready`; a renewal by nothing.",
        replies=(Ready, Error),
    ),
    Operation(
        name="ping",
        action="receive",
        channel="ws",
        messages=(Ping,),
        summary="Show that the server answers.",
        replies=(Pong, Error),
    ),
    Operation(
        name="help",
        action="receive",
        channel="ws",
        messages=(GetHelp,),
        summary="Show what can be typed.",
        replies=(Help, Error),
    ),
    Operation(
        name="greet",
        action="send",
        channel="ws",
        messages=(Ready,),
        summary="Say where reading starts: the first frame of every connection.",
    ),
    Operation(
        name="tell",
        action="send",
        channel="ws",
        messages=_LOG,
        summary="Tell the session's log from the connection's cursor on, as it grows.",
    ),
    Operation(
        name="showLife",
        action="send",
        channel="ws",
        messages=(ServerPing,),
        summary="Show that the connection is there, after `heartbeat_s` of silence.",
    ),
    Operation(
        name="sayFarewell",
        action="send",
        channel="ws",
        messages=(Reconnect,),
        summary="Ask the client to come back, before the server goes away.",
    ),
    Operation(
        name="streamSession",
        action="send",
        channel="sessionEvents",
        messages=(Ready, *_LOG),
        summary="Tell the session's log from a cursor on, without an end, to an `EventSource`.",
    ),
    Operation(
        name="streamTurn",
        action="send",
        channel="turnEvents",
        messages=_LOG,
        summary="Tell one turn to its end; the last data is `[DONE]`.",
    ),
)


def asyncapi() -> Json:
    """Describe everything that is streamed; the same document, key for key, each time."""
    defined = frame_definitions(template=_DEFINED)
    # A discriminator is a string here, and the messages say all that the unions would.
    schemas = {name: schema for name, schema in defined.items() if not name.endswith("Frame")}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": NAME,
            "version": VERSION,
            "description": "Real-time chat with a language model. A session is an append-only log,"
            " and every client is a cursor on it: store the last `id`, come back with it.",
        },
        "defaultContentType": "application/json",
        "servers": {
            "websocket": _server("ws", "The WebSocket; `wss` behind a proxy with a certificate."),
            "http": _server("http", "The event streams; the other calls are in /openapi.json."),
        },
        "channels": _channels(),
        "operations": {operation.name: _operation(operation) for operation in OPERATIONS},
        "components": {
            "messages": _messages(),
            "schemas": schemas,
            "securitySchemes": _SECURITY,
        },
        "x-close-codes": {str(int(code)): says for code, says in CLOSES.items()},
        "x-error-codes": {
            code.value: {"description": kind.message, "retryable": kind.retryable}
            for code, kind in CATALOGUE.items()
        },
    }


_SECURITY: dict[str, Json] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, or a token (JWT), in `Authorization`. A page's WebSocket, which"
        f" cannot set it, offers the subprotocols `{PROTOCOL}` and `bearer.…` instead.",
    },
    "ticket": {
        "type": "httpApiKey",
        "in": "query",
        "name": "ticket",
        "description": "From `POST /api/tickets`: opens one connection, once and soon.",
    },
    "authFrame": {
        "type": "userPassword",
        "description": "The first frame of a WebSocket that came without credentials is `auth`.",
    },
}


def _server(protocol: str, says: str) -> Json:
    security = [{"$ref": f"#/components/securitySchemes/{name}"} for name in _SECURITY]
    return {
        "host": "127.0.0.1:8080",
        "protocol": protocol,
        "description": says + " Where no keys and tokens are configured nobody has to say who.",
        "security": security if protocol == "ws" else security[:2],
    }


def _channels() -> Json:
    return {
        "ws": {
            "address": "/ws",
            "title": "The WebSocket",
            "description": "One JSON object a frame. Text that does not begin with `{` is a message"
            " typed by hand, or a shorthand such as `/cancel`.",
            "servers": [{"$ref": "#/servers/websocket"}],
            "messages": _mentioned((*CLIENT_FRAMES, *SERVER_FRAMES), also=("Typed",)),
            "bindings": {
                "ws": {
                    "method": "GET",
                    "query": _query(),
                    "headers": _headers(),
                    "bindingVersion": "0.1.0",
                }
            },
        },
        "sessionEvents": {
            "address": "/api/sessions/{session_id}/events",
            "title": "The events of a session",
            "description": "`GET`, as an `EventSource` does; `Last-Event-ID` wins over `after`.",
            "servers": [{"$ref": "#/servers/http"}],
            "parameters": {"session_id": {"description": "The session."}},
            "messages": _mentioned((Ready, *_LOG)),
        },
        "turnEvents": {
            "address": "/api/chat/stream",
            "title": "The events of one turn",
            "description": "The answer to a `POST` of the message; see /openapi.json.",
            "servers": [{"$ref": "#/servers/http"}],
            "messages": _mentioned(_LOG),
        },
    }


def _query() -> Json:
    return {
        "type": "object",
        "properties": {
            "session_id": {
                "type": "string",
                "description": "The session; left out: a new one is begun.",
            },
            "after": {**_CURSOR, "description": "The last `id` seen: go on behind it."},
            "ticket": {"type": "string", "description": "Instead of other credentials, once."},
        },
    }


def _headers() -> Json:
    return {
        "type": "object",
        "properties": {
            "Authorization": {"type": "string", "description": "`Bearer` and a key or a token."},
            "Sec-WebSocket-Protocol": {
                "type": "string",
                "description": f"`{PROTOCOL}`, and `bearer.…` where a page brings a token.",
            },
        },
    }


def _operation(operation: Operation) -> Json:
    channel = {"$ref": f"#/channels/{operation.channel}"}
    written: Json = {
        "action": operation.action,
        "channel": channel,
        "title": operation.name,
        "summary": operation.summary,
        "messages": _on(operation.channel, operation.messages),
    }
    if operation.name == "chat":
        written["messages"].append({"$ref": "#/channels/ws/messages/Typed"})
    if operation.channel != "ws":
        method = "POST" if operation.channel == "turnEvents" else "GET"
        written["bindings"] = {"http": {"method": method, "bindingVersion": "0.3.0"}}
    if operation.replies:
        written["reply"] = {
            "channel": channel,
            "messages": _on(operation.channel, operation.replies),
        }
    return written


def _on(channel: str, models: tuple[type[Model], ...]) -> list[Json]:
    return [{"$ref": f"#/channels/{channel}/messages/{model.__name__}"} for model in models]


def _mentioned(models: tuple[type[Model], ...], also: tuple[str, ...] = ()) -> Json:
    names = (*(model.__name__ for model in models), *also)
    return {name: {"$ref": f"#/components/messages/{name}"} for name in names}


def _messages() -> Json:
    return {
        **{model.__name__: _message(model) for model in (*CLIENT_FRAMES, *SERVER_FRAMES)},
        "Typed": {
            "name": "typed",
            "title": "A message typed by hand",
            "summary": "The text of a `chat`, or a shorthand for another frame.",
            "contentType": "text/plain",
            "payload": {"type": "string", "pattern": "^[^{]"},
            "examples": [{"name": "a message", "payload": "안녕하세요"}],
        },
    }


def _message(model: type[Model]) -> Json:
    return {
        "name": kind_of(model),
        "title": model.__name__,
        "summary": described(model),
        "payload": {"$ref": _DEFINED.format(model=model.__name__)},
        "examples": [
            {"name": name, "payload": payload(example)} for name, example in EXAMPLES[model].items()
        ],
    }
