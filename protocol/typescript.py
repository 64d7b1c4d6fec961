"""TypeScript types of every frame, body and code, written from the JSON Schema.

A frame is called for its model and `Frame`, so that `Error` stays what it is; a body is called as
its model is. A reader narrows a `ServerFrame` by its `type`.
"""

import json
import re

from protocol.about import NAME, VERSION
from protocol.schema import CLIENT_FRAMES, Json, json_schema
from protocol.server_frames import SERVER_FRAMES

_NAMES = {model.__name__: f"{model.__name__}Frame" for model in (*CLIENT_FRAMES, *SERVER_FRAMES)}
_PLAIN = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean"}
_IDENTIFIER = re.compile(r"[A-Za-z_$][\w$]*", re.ASCII)


def typescript() -> str:
    """Write the types; the same text each time."""
    document = json_schema()
    head = f"// The frames and bodies of {NAME} {VERSION}, generated from its models.\n"
    return "\n".join([head, *(_declared(*each) for each in document["$defs"].items())])


def _declared(name: str, schema: Json) -> str:
    says = _comment(schema.get("description"), indent="")
    name = _NAMES.get(name, name)
    if schema.get("type") == "object" and "properties" in schema:
        return f"{says}export interface {name} {_fields(schema)}\n"
    if name == "JsonValue":
        return _JSON_VALUE
    return f"{says}export type {name} ={_choices(schema)};\n"


_JSON_VALUE = """\
/** Anything that JSON can say. */
export type JsonValue =
  | null
  | boolean
  | number
  | string
  | JsonValue[]
  | { [name: string]: JsonValue };
"""


def _fields(schema: Json) -> str:
    required = set(schema.get("required", ()))
    lines = []
    for name, field in schema["properties"].items():
        says = _comment(_said(field), indent="  ")
        mark = "" if name in required else "?"
        lines.append(f"{says}  {_key(name)}{mark}: {_type(field)};")
    return "{\n" + "\n".join(lines) + "\n}" if lines else "{}"


def _said(field: Json) -> str | None:
    """Say what a field is, and what of its limits a type cannot."""
    inner = next((c for c in field.get("anyOf", ()) if c != {"type": "null"}), field)
    limits = {
        "minimum": "at least {}",
        "maximum": "at most {}",
        "minLength": "at least {} characters",
        "maxLength": "at most {} characters",
        "format": "format {}",
        "pattern": "matches {}",
    }
    notes = [limits[key].format(inner[key]) for key in limits if key in inner]
    said: str | None = field.get("description")
    if not notes:
        return said
    return f"{said or ''} ({', '.join(notes)})".strip()


def _choices(schema: Json) -> str:
    choices = schema.get("oneOf")
    if choices is None:
        return f" {_type(schema)}"
    lines = []
    for choice in choices:
        says = _comment(choice.get("description"), indent="  ") if "const" in choice else ""
        lines.append(f"{says}  | {_type(choice)}")
    return "\n" + "\n".join(lines)


def _type(schema: Json) -> str:
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return _NAMES.get(name, name)
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " | ".join(map(json.dumps, schema["enum"]))
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " | ".join(map(_type, schema[several]))
    match schema.get("type"):
        case "array":
            return f"Array<{_type(schema['items'])}>"
        case "object":
            return f"Record<string, {_values(schema)}>"
        case "null":
            return "null"
        case str(plain):
            return _PLAIN[plain]
    return "unknown"


def _values(schema: Json) -> str:
    values = schema.get("additionalProperties", True)
    return _type(values) if isinstance(values, dict) else "unknown"


def _key(name: str) -> str:
    return name if _IDENTIFIER.fullmatch(name) else json.dumps(name)


def _comment(text: str | None, *, indent: str) -> str:
    if not text:
        return ""
    # What would end the comment is kept from doing so.
    words = " ".join(text.split()).replace("*/", "*\\/")
    return f"{indent}/** {words} */\n"
