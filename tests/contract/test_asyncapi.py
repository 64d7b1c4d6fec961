"""The AsyncAPI document is valid by the official parser, and speaks of every frame."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator
from starlette.routing import WebSocketRoute

from gateway.routes import ROUTES
from protocol.about import VERSION
from protocol.asyncapi import OPERATIONS, asyncapi
from protocol.errors import CloseCode, ErrorCode
from protocol.openapi import OPERATIONS as CALLS
from protocol.schema import CLIENT_FRAMES
from protocol.server_frames import SERVER_FRAMES
from tests.contract import node

Json = dict[str, Any]

DOCUMENT = asyncapi()
MESSAGES: Json = DOCUMENT["components"]["messages"]
CHECK = Path(__file__).parent / "validate_asyncapi.cjs"


def parsed(document: Json, directory: Path) -> Json:
    """Ask the official parser what it finds in a document."""
    file = directory / "asyncapi.json"
    file.write_text(json.dumps(document))
    ended = node.run(node.ASYNCAPI, "node", str(CHECK), str(file), directory=directory)
    assert ended.returncode == 0, ended.stderr
    told: Json = json.loads(ended.stdout)
    return told


def findings(told: Json) -> set[str]:
    """Say what is found but for the hint that there are newer versions of AsyncAPI."""
    return {each["code"] for each in told["findings"]} - {"asyncapi-latest-version"}


@node.needs_node
def test_the_official_parser_finds_nothing_wrong(tmp_path: Path) -> None:
    told = parsed(DOCUMENT, tmp_path)
    assert findings(told) == set(), told
    assert set(told["operations"]) == {operation.name for operation in OPERATIONS}


@node.needs_node
@pytest.mark.parametrize(
    ("part", "value"),
    [
        (("components", "messages", "Token", "examples", 0), "no object"),
        (("operations", "chat", "action"), "shout"),
        (("operations", "ping", "reply", "messages", 0, "$ref"), "#/channels/ws/messages/None"),
    ],
)
def test_the_official_parser_sees_what_is_wrong(
    part: tuple[Any, ...], value: str, tmp_path: Path
) -> None:
    broken = place = copy.deepcopy(DOCUMENT)
    for name in part[:-1]:
        place = place[name]
    place[part[-1]] = value
    assert findings(parsed(broken, tmp_path)) != set()


def test_the_document_is_the_same_each_time_and_says_of_which_version_it_is() -> None:
    assert json.dumps(asyncapi()) == json.dumps(DOCUMENT)
    assert DOCUMENT["info"]["version"] == VERSION


def test_every_frame_is_received_or_sent_by_some_operation() -> None:
    for action, models in (("receive", CLIENT_FRAMES), ("send", SERVER_FRAMES)):
        named = {m for each in OPERATIONS if each.action == action for m in each.messages}
        answers = {m for each in OPERATIONS if action == "send" for m in each.replies}
        assert (named | answers if action == "send" else named) == set(models)


def test_every_message_has_examples_that_are_valid() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for name, message in MESSAGES.items():
        schema = {**message["payload"], "components": {"schemas": schemas}}
        for example in message["examples"]:
            Draft7Validator(schema).validate(example["payload"])
        assert message["summary"], name


def test_channels_are_where_the_gateway_serves_them() -> None:
    [socket] = [route.path for route in ROUTES if isinstance(route, WebSocketRoute)]
    streams = {call.path for call in CALLS if call.events}
    assert {channel["address"] for channel in DOCUMENT["channels"].values()} == {socket, *streams}


def test_every_stream_tells_what_the_rest_description_says() -> None:
    told = {
        DOCUMENT["channels"][each.channel]["address"]: set(each.messages)
        for each in OPERATIONS
        if each.channel != "ws"
    }
    assert told == {call.path: set(call.events) for call in CALLS if call.events}


def test_all_codes_are_listed() -> None:
    assert set(DOCUMENT["x-close-codes"]) == {str(int(code)) for code in CloseCode}
    assert set(DOCUMENT["x-error-codes"]) == {code.value for code in ErrorCode}
