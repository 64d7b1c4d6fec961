"""The JSON Schema (2020-12) of every frame and body, made from their models.

One document: whatever is not a definition of its own says `$ref`. `ClientFrame` and `ServerFrame`
are told apart by `type`. Clients may send fields that are not known, and should ignore those that
they do not know.
"""

from collections.abc import Iterable
from typing import Any, Literal, get_args

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from protocol import rest
from protocol.about import NAME, VERSION
from protocol.chat import Model
from protocol.client_frames import ClientFrame
from protocol.errors import CATALOGUE, CLOSES
from protocol.server_frames import SERVER_FRAMES

Json = dict[str, Any]
Mode = Literal["validation", "serialization"]
Direction = tuple[type[Model], Mode]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

CLIENT_FRAMES: tuple[type[Model], ...] = get_args(ClientFrame)
REQUESTS: tuple[type[Model], ...] = (
    *(rest.CreateSession, rest.SessionsQuery, rest.HistoryQuery, rest.ExportQuery),
    *(rest.ChatRequest, rest.CancelRequest),
)
REPLIES: tuple[type[Model], ...] = (
    *(rest.Session, rest.SessionList, rest.TicketReply, rest.ChatReply, rest.Messages),
    *(rest.Cancelled, rest.Health, rest.Readiness, rest.Problem),
)


class WireSchema(GenerateJsonSchema):
    """What is on the wire: a field that the server leaves out is not null, all others are there."""

    def field_is_required(
        self,
        field: core_schema.ModelField | core_schema.DataclassField | core_schema.TypedDictField,
        total: bool,
    ) -> bool:
        """Require what the server always says, defaults and all."""
        if self.mode == "serialization":
            return "serialization_exclude_if" not in field
        return super().field_is_required(field, total)

    def model_field_schema(self, schema: core_schema.ModelField) -> JsonSchemaValue:
        """Take null out of what is left out instead."""
        found = super().model_field_schema(schema)
        if self.mode == "serialization" and "serialization_exclude_if" in schema:
            return _never_null(found)
        return found

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Give no field a title: it would be its name once more."""
        return False


def definitions(directions: Iterable[Direction], *, template: str) -> Json:
    """Define models and all they are made of, each under its own name.

    `template` is the form of a reference, with `{model}` in it.
    """
    _, found = models_json_schema(
        list(directions), ref_template=template, schema_generator=WireSchema
    )
    defined: Json = found["$defs"]
    for schema in defined.values():
        kind = schema.get("properties", {}).get("type", {})
        if "const" in kind:
            # Without it a frame is of no type, whatever the default of the model says.
            kind.pop("default", None)
            schema["required"] = ["type", *(n for n in schema.get("required", ()) if n != "type")]
    return defined


def described(model: type[Model]) -> str:
    """Say what a model is, as one paragraph."""
    return " ".join((model.__doc__ or "").split())


def kind_of(model: type[Model]) -> str:
    """Say the `type` of a frame."""
    kind: str = model.model_fields["type"].default
    return kind


def frame_definitions(*, template: str) -> Json:
    """Define the two unions of frames, the codes, and all they are made of."""
    sent: list[Direction] = [(model, "validation") for model in CLIENT_FRAMES]
    said: list[Direction] = [(model, "serialization") for model in SERVER_FRAMES]
    return {
        "ClientFrame": _union(CLIENT_FRAMES, "Anything a client may say.", template=template),
        "ServerFrame": _union(SERVER_FRAMES, "Anything the server says.", template=template),
        "CloseCode": _close_codes(),
        **_with_meanings(definitions([*sent, *said], template=template)),
    }


def json_schema() -> Json:
    """Describe every frame and body; the same document, key for key, each time."""
    template = "#/$defs/{model}"
    asked: list[Direction] = [(model, "validation") for model in REQUESTS]
    given: list[Direction] = [(model, "serialization") for model in REPLIES]
    bodies = definitions([*asked, *given], template=template)
    return {
        "$schema": DIALECT,
        "$id": f"urn:{NAME}:schema:{VERSION}",
        "title": NAME,
        "description": "A frame of the WebSocket /ws, in either direction, is valid by this;"
        " each frame and each body of the REST calls has a definition of its own.",
        "version": VERSION,
        "anyOf": [{"$ref": "#/$defs/ClientFrame"}, {"$ref": "#/$defs/ServerFrame"}],
        "$defs": frame_definitions(template=template) | _with_meanings(bodies),
    }


def _union(models: tuple[type[Model], ...], says: str, *, template: str) -> Json:
    refs = {kind_of(model): template.format(model=model.__name__) for model in models}
    return {
        "title": says.rstrip("."),
        "description": says,
        "oneOf": [{"$ref": ref} for ref in refs.values()],
        "discriminator": {"propertyName": "type", "mapping": refs},
    }


def _close_codes() -> Json:
    return {
        "title": "CloseCode",
        "description": "Why a WebSocket is closed. 4000-4499: reconnect; 4500-4999: do not.",
        "type": "integer",
        "oneOf": [{"const": int(code), "description": says} for code, says in CLOSES.items()],
    }


def _with_meanings(defined: Json) -> Json:
    """Say of each error code what it means, which an enumeration alone cannot."""
    if "ErrorCode" in defined:
        codes = [
            {
                "const": code.value,
                "description": kind.message,
                "x-http-status": kind.status,
                "x-retryable": kind.retryable,
            }
            for code, kind in CATALOGUE.items()
        ]
        kept = {k: v for k, v in defined["ErrorCode"].items() if k != "enum"}
        defined["ErrorCode"] = {**kept, "oneOf": codes}
    return defined


def _never_null(schema: JsonSchemaValue) -> JsonSchemaValue:
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    rest_of_it = {k: v for k, v in schema.items() if k not in ("anyOf", "default")}
    if len(choices) == 1:
        return {**choices[0], **rest_of_it}
    return {"anyOf": choices, **rest_of_it}
