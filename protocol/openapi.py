"""The OpenAPI 3.1 document of the REST calls, made from their models and the error catalogue.

It speaks of what lies under `/api/`; all else is for people, probes and tools.
"""

from dataclasses import dataclass
from typing import Literal

from protocol import rest
from protocol.about import NAME, VERSION
from protocol.chat import Model
from protocol.errors import CATALOGUE
from protocol.schema import Direction, Json, definitions
from protocol.server_frames import Complete, Error, Queued, Ready, Start, Token

_SCHEMA = "#/components/schemas/{model}"
_TURN_EVENTS: tuple[type[Model], ...] = (Start, Queued, Token, Complete, Error)
_PARAMETERS: dict[str, Json] = {
    "Last-Event-ID": {"in": "header", "description": "The `id` of the last event seen; it wins."},
    "after": {"in": "query", "description": "The `id` of the last event seen."},
    "ticket": {"in": "query", "description": "Instead of credentials, once."},
}
"""What is neither in a body nor in a query that has a model."""

_CHAT = rest.ChatRequest(
    session_id="8308d7c7-aa27-4500-ab0c-89729caed6d0", message="안녕하세요", max_new_tokens=256
)

_RETRY_AFTER = (429, 502, 503)
"""Statuses of which the server may know for how many seconds they last."""

_BESIDE_THE_CATALOGUE = {403: "forbidden", 413: "body_too_large"}
"""Statuses of the HTTP layer, and their codes; those of a wrong path or method go unsaid."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One REST call: how it is asked for, what it gives, and which errors are its own.

    Errors that follow from a body, a query, a session in the path or from being guarded need not
    be named. `events` are what a stream of server-sent events is made of, and `last` its last word.
    `files` are the media types of a text that is to be kept.
    """

    name: str
    method: Literal["get", "post", "delete"]
    path: str
    summary: str
    body: type[Model] | None = None
    example: Model | None = None
    query: type[Model] | None = None
    parameters: tuple[str, ...] = ()
    status: int = 200
    reply: type[Model] | None = None
    events: tuple[type[Model], ...] = ()
    last: str | None = None
    files: tuple[str, ...] = ()
    errors: frozenset[int] = frozenset()
    guarded: bool = True


OPERATIONS = (
    Operation(
        name="create_session",
        method="post",
        path="/api/sessions",
        summary="Begin a session.",
        body=rest.CreateSession,
        example=rest.CreateSession(metadata={"title": "A first talk"}),
        status=201,
        reply=rest.Session,
    ),
    Operation(
        name="list_sessions",
        method="get",
        path="/api/sessions",
        summary="Show a page of the caller's sessions.",
        query=rest.SessionsQuery,
        reply=rest.SessionList,
    ),
    Operation(
        name="get_session",
        method="get",
        path="/api/sessions/{session_id}",
        summary="Tell of a session.",
        reply=rest.Session,
    ),
    Operation(
        name="delete_session",
        method="delete",
        path="/api/sessions/{session_id}",
        summary="Delete a session and all it holds.",
        status=204,
    ),
    Operation(
        name="get_messages",
        method="get",
        path="/api/sessions/{session_id}/messages",
        summary="Show a page of the history, or of what is found in it.",
        query=rest.HistoryQuery,
        reply=rest.Messages,
    ),
    Operation(
        name="export_session",
        method="get",
        path="/api/sessions/{session_id}/export",
        summary="Write a session out as a file: each line a message as JSON, or Markdown.",
        query=rest.ExportQuery,
        files=("application/jsonl", "application/x-ndjson", "text/markdown"),
    ),
    Operation(
        name="get_events",
        method="get",
        path="/api/sessions/{session_id}/events",
        summary="Stream the session's log from a cursor on, without an end.",
        parameters=("Last-Event-ID", "after", "ticket"),
        events=(Ready, *_TURN_EVENTS),
    ),
    Operation(
        name="cancel",
        method="post",
        path="/api/sessions/{session_id}/cancel",
        summary="Stop a queued or running turn.",
        body=rest.CancelRequest,
        example=rest.CancelRequest(),
        status=202,
        reply=rest.Cancelled,
        errors=frozenset({409}),
    ),
    Operation(
        name="chat",
        method="post",
        path="/api/chat",
        summary="Ask a question and wait for the whole reply.",
        body=rest.ChatRequest,
        example=_CHAT,
        reply=rest.ChatReply,
        errors=frozenset({404, 409, 502, 504}),
    ),
    Operation(
        name="chat_stream",
        method="post",
        path="/api/chat/stream",
        summary="Ask a question and stream the reply.",
        body=rest.ChatRequest,
        example=_CHAT,
        events=_TURN_EVENTS,
        last="[DONE]",
        errors=frozenset({404, 409, 502}),
    ),
    Operation(
        name="create_ticket",
        method="post",
        path="/api/tickets",
        summary="Get what opens one connection, once, instead of credentials.",
        status=201,
        reply=rest.TicketReply,
    ),
    Operation(
        name="get_health",
        method="get",
        path="/api/health",
        summary="Tell what works.",
        reply=rest.Health,
        guarded=False,
    ),
)


def openapi() -> Json:
    """Describe every REST call; the same document, key for key, each time."""
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": NAME,
            "version": VERSION,
            "description": "The calls beside the WebSocket `/ws`, with the same JSON objects.",
        },
        "security": [{}, {"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "responses": {str(status): _problem(status) for status in _error_statuses()},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def errors_of(operation: Operation) -> set[int]:
    """Say with which statuses a call can fail."""
    statuses = set(operation.errors)
    if operation.guarded:
        statuses |= {401, 403, 429, 503}
    if "{session_id}" in operation.path:
        statuses |= {404}
    if operation.query:
        # A place in a list is named by what stands there, which may be gone.
        statuses |= {404, 422}
    if operation.body:
        statuses |= {413, 422}
    return statuses


def _described(operation: Operation) -> Json:
    described: Json = {"operationId": operation.name, "summary": operation.summary}
    if not operation.guarded:
        described["security"] = []
    if parameters := _parameters(operation):
        described["parameters"] = parameters
    if operation.body:
        described["requestBody"] = {
            "required": any(field.is_required() for field in operation.body.model_fields.values()),
            "content": {"application/json": _content(operation)},
        }
    described["responses"] = {str(operation.status): _success(operation)} | {
        str(status): {"$ref": f"#/components/responses/{status}"}
        for status in sorted(errors_of(operation))
    }
    return described


def _content(operation: Operation) -> Json:
    content: Json = {}
    if operation.body:
        content["schema"] = _ref(operation.body)
    if operation.example:
        content["example"] = operation.example.model_dump(mode="json", exclude_none=True)
    return content


def _parameters(operation: Operation) -> list[Json]:
    parameters: list[Json] = []
    if "{session_id}" in operation.path:
        identifier = {"type": "string", "minLength": 1}
        place = {"in": "path", "required": True}
        parameters.append({"name": "session_id", **place, "schema": identifier})
    if operation.query:
        fields = operation.query.model_json_schema()["properties"]
        parameters += [
            {
                "name": name,
                "in": "query",
                "description": field["description"],
                "schema": _given(field),
            }
            for name, field in fields.items()
        ]
    text = {"schema": {"type": "string"}}
    parameters += [{"name": name, **_PARAMETERS[name], **text} for name in operation.parameters]
    return parameters


def _given(field: Json) -> Json:
    """Say what a field of a query holds where it is there: null cannot be written in one."""
    found: Json = next(choice for choice in field["anyOf"] if choice != {"type": "null"})
    return found


def _success(operation: Operation) -> Json:
    response: Json = {"description": operation.summary}
    if operation.reply:
        response["content"] = {"application/json": {"schema": _ref(operation.reply)}}
    if operation.events:
        response["content"] = {"text/event-stream": {"schema": _event(operation)}}
    if operation.files:
        text = {"schema": {"type": "string"}}
        response["content"] = dict.fromkeys(operation.files, text)
        response["headers"] = {"Content-Disposition": text}
    return response


def _event(operation: Operation) -> Json:
    """Describe one event of a stream: before OpenAPI 3.2 has `itemSchema`, that is its schema."""
    frame: Json = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"oneOf": [_ref(event) for event in operation.events]},
    }
    data = frame if operation.last is None else {"anyOf": [frame, {"const": operation.last}]}
    fields = {"id": {"type": "string", "description": "A cursor."}, "data": data}
    return {"type": "object", "properties": fields, "required": ["data"]}


def _problem(status: int) -> Json:
    problem: Json = {
        "description": ", ".join(_codes(status)),
        "content": {"application/problem+json": {"schema": _ref(rest.Problem)}},
    }
    if status in _RETRY_AFTER:
        seconds = {"type": "integer", "minimum": 0}
        problem["headers"] = {"Retry-After": {"description": "In seconds.", "schema": seconds}}
    return problem


def _codes(status: int) -> list[str]:
    if status in _BESIDE_THE_CATALOGUE:
        return [_BESIDE_THE_CATALOGUE[status]]
    return [code.value for code, kind in CATALOGUE.items() if kind.status == status]


def _error_statuses() -> list[int]:
    return sorted({status for operation in OPERATIONS for status in errors_of(operation)})


def _schemas() -> Json:
    asked: list[Direction] = [(o.body, "validation") for o in OPERATIONS if o.body]
    given: list[Direction] = [(m, "serialization") for o in OPERATIONS for m in _given_models(o)]
    problem: Direction = (rest.Problem, "serialization")
    models = list(dict.fromkeys([*asked, *given, problem]))
    return definitions(models, template=_SCHEMA)


def _given_models(operation: Operation) -> tuple[type[Model], ...]:
    return (operation.reply, *operation.events) if operation.reply else operation.events


def _ref(model: type[Model]) -> Json:
    return {"$ref": _SCHEMA.format(model=model.__name__)}
