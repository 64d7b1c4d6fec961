"""What a gateway really says is valid by the documents, to the last field."""

import copy
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from protocol.schema import CLIENT_FRAMES, REPLIES, json_schema, kind_of
from protocol.server_frames import SERVER_FRAMES
from tests.contract.recording import Recording

Json = dict[str, Any]


def strict(document: Json) -> Json:
    """Forbid every field that is not described, which clients must not do."""
    document = copy.deepcopy(document)
    for schema in document["$defs"].values():
        if "properties" in schema:
            schema["additionalProperties"] = False
    return document


DEFINED = strict(json_schema())["$defs"]


def findings(name: str, value: Json) -> list[str]:
    schema = {"$ref": f"#/$defs/{name}", "$defs": DEFINED}
    validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


FRAMES = {kind_of(model): model.__name__ for model in SERVER_FRAMES}
ASKED = {kind_of(model): model.__name__ for model in CLIENT_FRAMES}


def test_every_frame_was_said_and_every_one_is_as_described(recording: Recording) -> None:
    assert {frame["type"] for frame in recording.websocket} == set(FRAMES)
    told = {"start", "token", "complete", "error"}
    assert {frame["type"] for frame in recording.turn_events} == told
    assert {frame["type"] for frame in recording.session_events} == {"ready", *told}
    for frame in recording.frames:
        assert findings(FRAMES[frame["type"]], frame) == [], frame
        assert findings("ServerFrame", frame) == []


def test_every_field_that_may_be_left_out_was_seen_with_and_without(recording: Recording) -> None:
    rare = {"retry_after_ms", "eta_ms"}
    for model in SERVER_FRAMES:
        said = [frame for frame in recording.frames if frame["type"] == kind_of(model)]
        described = DEFINED[model.__name__]
        for field in set(described["properties"]) - set(described["required"]) - rare:
            seen = {field in frame for frame in said}
            assert True in seen, f"{model.__name__}.{field}"


def test_every_frame_of_a_client_was_sent_and_is_as_described(recording: Recording) -> None:
    known = [frame for frame in recording.sent if frame["type"] in ASKED]
    assert {frame["type"] for frame in known} == set(ASKED)
    for frame in known:
        assert findings(ASKED[frame["type"]], frame) == []
    assert findings("ClientFrame", {"type": "nonsense"}) != []


@pytest.mark.parametrize("name", [model.__name__ for model in REPLIES])
def test_every_body_was_seen_and_is_as_described(recording: Recording, name: str) -> None:
    assert recording.bodies[name]
    for body in recording.bodies[name]:
        assert findings(name, body) == [], body
