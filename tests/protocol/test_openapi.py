"""The document of the REST calls is sound, and says neither less nor more than there is."""

import json
from typing import Any

import pytest
from openapi_spec_validator import validate
from starlette.routing import Route

from gateway.routes import ROUTES
from protocol.errors import CATALOGUE
from protocol.openapi import OPERATIONS, openapi

Json = dict[str, Any]

DOCUMENT = openapi()
DESCRIBED = {
    (path, method.upper()): operation
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
}
CALLS = [pytest.param(*call, id=" ".join(reversed(call))) for call in DESCRIBED]


def references(part: Any) -> set[str]:
    """Collect every `$ref` in a part of the document."""
    if isinstance(part, list):
        return set().union(*map(references, part))
    if not isinstance(part, dict):
        return set()
    return {part["$ref"]} if "$ref" in part else references(list(part.values()))


def test_the_document_is_valid() -> None:
    validate(DOCUMENT)


def test_the_document_is_the_same_each_time() -> None:
    assert json.dumps(openapi()) == json.dumps(DOCUMENT)


def test_every_call_under_api_is_described_and_no_other() -> None:
    routed = {
        (route.path, method)
        for route in ROUTES
        if isinstance(route, Route) and route.path.startswith("/api/")
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert routed == set(DESCRIBED)


def test_every_call_has_a_name_of_its_own() -> None:
    assert len({operation.name for operation in OPERATIONS}) == len(OPERATIONS)


def test_every_model_in_the_document_is_spoken_of() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    spoken_of = references(DOCUMENT) | references(list(schemas.values()))
    assert {f"#/components/schemas/{name}" for name in schemas} == {
        ref for ref in spoken_of if "/schemas/" in ref
    }


@pytest.mark.parametrize(("path", "method"), CALLS)
def test_all_calls_but_health_may_ask_for_credentials_and_for_patience(
    path: str, method: str
) -> None:
    responses = set(DESCRIBED[path, method]["responses"])
    if path == "/api/health":
        assert responses == {"200"}
        assert DESCRIBED[path, method]["security"] == []
    else:
        assert {"401", "403", "429", "503"} <= responses
        assert DOCUMENT["security"] == [{}, {"bearer": []}]


@pytest.mark.parametrize(("path", "method"), CALLS)
def test_whoever_sends_a_body_may_send_too_much_or_nonsense(path: str, method: str) -> None:
    operation = DESCRIBED[path, method]
    assert ("requestBody" in operation) <= ({"413", "422"} <= set(operation["responses"]))


def test_errors_are_problems_and_name_their_codes() -> None:
    for status, problem in DOCUMENT["components"]["responses"].items():
        assert list(problem["content"]) == ["application/problem+json"]
        codes = {code.value for code, kind in CATALOGUE.items() if kind.status == int(status)}
        codes |= {"403": {"forbidden"}, "413": {"body_too_large"}}.get(status, set())
        assert set(problem["description"].split(", ")) == codes


def test_the_catalogue_s_statuses_are_all_described_except_for_mistakes_of_ours() -> None:
    described = {int(status) for status in DOCUMENT["components"]["responses"]}
    assert described == {kind.status for kind in CATALOGUE.values()} - {500} | {403, 413}


def test_who_is_to_come_back_later_is_told_when() -> None:
    responses = DOCUMENT["components"]["responses"]
    for status in ("429", "502", "503"):
        assert responses[status]["headers"]["Retry-After"]["schema"]["type"] == "integer"
    assert "headers" not in responses["404"]


def test_a_query_is_described_by_what_can_be_written_in_one() -> None:
    parameters = DESCRIBED["/api/sessions/{session_id}/messages", "GET"]["parameters"]
    assert {p["name"]: p["schema"] for p in parameters if p["in"] == "query"} == {
        "limit": {"type": "integer", "minimum": 1, "maximum": 1_000},
        "before": {"type": "string"},
        "include": {"type": "string", "const": "replaced"},
        "q": {"type": "string", "pattern": r"^\s*\S([\s\S]{0,254}\S)?\s*$"},
    }


def test_streams_say_what_their_events_are() -> None:
    responses = DESCRIBED["/api/chat/stream", "POST"]["responses"]
    stream = responses["200"]["content"]["text/event-stream"]
    frame, done = stream["schema"]["properties"]["data"]["anyOf"]
    names = {ref.rpartition("/")[2] for ref in references(frame["contentSchema"])}
    assert names == {"Start", "Queued", "Token", "Complete", "Error"}
    assert done == {"const": "[DONE]"}


def test_a_body_may_be_left_out_where_it_needs_no_field() -> None:
    required = {
        path: operation["requestBody"]["required"]
        for (path, _), operation in DESCRIBED.items()
        if "requestBody" in operation
    }
    assert required == {
        "/api/sessions": False,
        "/api/sessions/{session_id}/cancel": False,
        "/api/chat": True,
        "/api/chat/stream": True,
    }
