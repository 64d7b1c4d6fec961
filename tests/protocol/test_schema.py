"""The JSON Schema is sound, complete, and takes what the parser takes."""

import json
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from protocol import client_frames, rest, server_frames
from protocol.about import VERSION
from protocol.chat import Model
from protocol.client_frames import ClientFrame, parse_client_frame
from protocol.errors import CATALOGUE, CLOSES, CloseCode, Refusal
from protocol.examples import EXAMPLES, payload
from protocol.invalid import parse_json
from protocol.schema import CLIENT_FRAMES, REPLIES, REQUESTS, json_schema
from protocol.server_frames import SERVER_FRAMES, ServerFrame
from tests.corpus.reading import Sample, corpus

Json = dict[str, Any]

SCHEMA = json_schema()
DEFINED: Json = SCHEMA["$defs"]
BODIES = (*REQUESTS, *REPLIES)


def validator(name: str) -> Draft202012Validator:
    """Validate by one definition of the document."""
    return Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": DEFINED})


CLIENT = validator("ClientFrame")


def models_in(module: Any) -> set[type[Model]]:
    found = {each for each in vars(module).values() if isinstance(each, type)}
    return {
        each for each in found if issubclass(each, Model) and each.__module__ == module.__name__
    }


def test_the_document_is_valid_by_the_metaschema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_the_document_is_the_same_each_time_and_says_of_which_version_it_is() -> None:
    assert json.dumps(json_schema()) == json.dumps(SCHEMA)
    assert SCHEMA["version"] == VERSION
    assert VERSION in SCHEMA["$id"]


def test_every_model_of_the_wire_is_defined_and_nothing_else() -> None:
    modules = (client_frames, server_frames, rest)
    models = set().union(*map(models_in, modules)) - {ServerFrame}
    others = {"ClientFrame", "ServerFrame", "CloseCode", "ErrorCode", "JsonValue"}
    assert set(DEFINED) == {model.__name__ for model in models} | others


def test_both_unions_hold_every_frame_under_its_type() -> None:
    assert set(SERVER_FRAMES) == set(ServerFrame.__subclasses__())
    assert get_args(ClientFrame) == CLIENT_FRAMES
    for union, models in (("ClientFrame", CLIENT_FRAMES), ("ServerFrame", SERVER_FRAMES)):
        mapping = DEFINED[union]["discriminator"]["mapping"]
        assert [choice["$ref"] for choice in DEFINED[union]["oneOf"]] == list(mapping.values())
        for model, (kind, ref) in zip(models, mapping.items(), strict=True):
            defined = DEFINED[ref.removeprefix("#/$defs/")]
            assert defined["title"] == model.__name__
            assert defined["properties"]["type"]["const"] == kind
            assert "type" in defined["required"]


@pytest.mark.parametrize("name", [name for name in DEFINED if "properties" in DEFINED[name]])
def test_every_definition_and_every_field_says_what_it_is(name: str) -> None:
    assert DEFINED[name]["description"]
    for field, described in DEFINED[name]["properties"].items():
        assert (field == "type" and "const" in described) or described.get("description"), field


def test_every_code_says_what_it_means() -> None:
    closes = {each["const"]: each["description"] for each in DEFINED["CloseCode"]["oneOf"]}
    assert closes == {int(code): CLOSES[code] for code in CloseCode}
    errors = {each["const"]: each for each in DEFINED["ErrorCode"]["oneOf"]}
    assert {code: each["x-retryable"] for code, each in errors.items()} == {
        code.value: kind.retryable for code, kind in CATALOGUE.items()
    }


@pytest.mark.parametrize("model", [*CLIENT_FRAMES, *SERVER_FRAMES], ids=lambda m: m.__name__)
def test_every_frame_has_examples_that_are_valid(model: type[Model]) -> None:
    assert EXAMPLES[model]
    for example in EXAMPLES[model].values():
        written = json.loads(json.dumps(payload(example)))
        validator(model.__name__).validate(written)
        union = "ClientFrame" if model in CLIENT_FRAMES else "ServerFrame"
        validator(union).validate(written)
        assert model.model_validate(written) == example


# What the parser takes, and what the schema does. A schema knows nothing of:
#
# - text that is no JSON object, and the shorthands: those are not what it is asked about
# - numbers written as text ("3"), as 1.0, or as true: pydantic reads them, for hands and for
#   clients of the original; programs should not lean on it
# - surrogates and NUL, which are replaced before anything is counted
# - nesting, and how large a whole number may be


def is_coerced(value: Json) -> bool:
    """Whether the parser would read some field for what it was not written as."""
    for model in CLIENT_FRAMES:
        if value.get("type") == model.model_fields["type"].default:
            try:
                model.model_validate(value, strict=True)
            except ValidationError:
                return True
    return False


def object_in(sample: Sample) -> Json | None:
    """Read a sample as a JSON object; None where it is something else."""
    text = sample.text
    if text is None or not text.startswith("{"):
        return None
    try:
        value = parse_json(text)
    except Refusal:
        return None
    return value if isinstance(value, dict) else None


OBJECTS = [(sample, value) for sample in corpus() if (value := object_in(sample)) is not None]


def taken(text: str) -> bool:
    try:
        parse_client_frame(text)
    except Refusal:
        return False
    return True


@pytest.mark.parametrize(("sample", "value"), OBJECTS, ids=lambda x: getattr(x, "name", ""))
def test_the_schema_takes_what_the_parser_takes(sample: Sample, value: Json) -> None:
    assert sample.text is not None
    parsed, valid = taken(sample.text), CLIENT.is_valid(value)
    if parsed and not valid:
        assert is_coerced(value), "the schema refuses what the parser takes as it is written"
    else:
        assert parsed == valid


def test_the_corpus_asks_the_schema_about_frames_of_both_kinds() -> None:
    answers = [CLIENT.is_valid(value) for _, value in OBJECTS]
    assert answers.count(True) > 50
    assert answers.count(False) > 100
