"""The gateway does what every vector says: the program itself, on a socket."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from jsonschema import Draft202012Validator

from gateway.auth.api_keys import new_key
from protocol.errors import CloseCode, ErrorCode
from protocol.schema import CLIENT_FRAMES, kind_of
from protocol.server_frames import SERVER_FRAMES
from tests.conformance.matching import Mismatch, Variables, match
from tests.conformance.running import VECTORS, Scenario, run, scenarios
from tests.whole.processes import gateway

ALL = list(scenarios())
FORMAT = json.loads((VECTORS / "format.json").read_text())
UNLIMITED = dict.fromkeys(
    ("SESSIONS_PER_MINUTE", "MESSAGES_PER_MINUTE", "HANDSHAKES_PER_MINUTE"), "0"
)


@contextmanager
def a_gateway(directory: Path, **settings: str) -> Iterator[str]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(gateway(directory, **UNLIMITED, **settings)) as program,
    ):
        yield program.url
        assert program.complaints == []


@pytest.fixture(scope="module")
def open_to_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway that asks nobody who they are."""
    with a_gateway(tmp_path_factory.mktemp("open")) as url:
        yield url


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Variables]]:
    """A gateway that knows two people by their keys."""
    (key, line), (other_key, other_line) = new_key("alice"), new_key("bob")
    lines = f"{line.line},{other_line.line}"
    with a_gateway(tmp_path_factory.mktemp("keyed"), API_KEYS=lines) as url:
        yield url, {"key": key, "other_key": other_key}


@pytest.mark.parametrize("scenario", ALL, ids=str)
def test_the_gateway_conforms(scenario: Scenario, request: pytest.FixtureRequest) -> None:
    if "keys" in scenario.needs:
        url, variables = request.getfixturevalue("keyed")
    else:
        url, variables = request.getfixturevalue("open_to_all"), {}
    asyncio.run(run(scenario, url, variables))


@pytest.mark.parametrize(
    "file",
    [file for file in VECTORS.glob("*.json") if file.name != "format.json"],
    ids=lambda f: f.stem,
)
def test_a_file_keeps_to_the_format(file: Path) -> None:
    Draft202012Validator.check_schema(FORMAT)
    Draft202012Validator(FORMAT).validate(json.loads(file.read_text()))


def test_no_two_scenarios_have_the_same_name() -> None:
    assert len({str(scenario) for scenario in ALL}) == len(ALL) > 70


def mentioned(part: Any, key: str) -> set[Any]:
    """Collect what a key holds wherever it is."""
    if isinstance(part, list):
        return set().union(*(mentioned(each, key) for each in part))
    if not isinstance(part, dict):
        return set()
    held = {part[key]} if isinstance(part.get(key), str | int) else set()
    return held.union(*(mentioned(each, key) for each in part.values()))


def test_the_vectors_speak_of_the_whole_contract() -> None:
    steps = [step for scenario in ALL for step in scenario.steps]
    sent = {step["send"]["type"] for step in steps if "send" in step}
    assert sent == {kind_of(model) for model in CLIENT_FRAMES}
    heard = mentioned([step.get("expect", step.get("until")) for step in steps], "type")
    heard |= {"token"} if any("tokens" in step for step in steps) else set()
    # What no vector can bring about: a silence, a busy model, a restart.
    assert {kind_of(model) for model in SERVER_FRAMES} - heard == {"queued", "ping", "reconnect"}
    unheard = {
        *("message_too_long", "queue_full", "rate_limited", "upstream_timeout"),
        *("upstream_stalled", "turn_timeout", "context_too_long", "interrupted"),
        *("storage_error", "shutting_down", "internal"),
    } - {"message_too_long"}
    assert {code.value for code in ErrorCode} - mentioned(steps, "code") == unheard
    closes = {CloseCode.BINARY, CloseCode.UNAUTHORIZED, CloseCode.INVALID_FRAMES}
    assert {each for each in mentioned(steps, "ends") if isinstance(each, int)} == {
        *closes,
        CloseCode.SESSION_GONE,
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"a": 1}, {"a": 2}),
        ({}, {"a": 1}),
        ({"a": 1}, {"a": {"$absent": True}}),
        ({"a": True}, {"a": 1}),
        ({"a": None}, {"a": {"$type": "string"}}),
        ({"a": True}, {"a": {"$type": "integer"}}),
        ({"a": "x"}, {"a": {"$match": "^y"}}),
        ([1], [1, 2]),
        ("b", "${name}"),
        ({"a": [1]}, {"a": {"$length": 2}}),
        ("c", {"$one": ["a", "b"]}),
        ("a", {"$not": "a"}),
    ],
)
def test_what_is_not_as_expected_is_seen(given: Any, expected: Any) -> None:
    with pytest.raises(Mismatch):
        match(given, expected, {"name": "a"})


def test_what_is_as_expected_is_kept() -> None:
    kept: Variables = {"name": "a"}
    match({"a": {"b": "x", "more": 1}}, {"a": {"b": {"$type": "string", "$save": "b"}}}, kept)
    match({"a": "a-x", "b": [1.0]}, {"a": "${name}-${b}", "b": [1]}, kept)
    assert kept == {"name": "a", "b": "x"}
