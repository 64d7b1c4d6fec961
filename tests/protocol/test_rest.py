"""Bodies of REST calls: those of the original are taken, and what they hold can be stored."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from protocol.errors import Refusal
from protocol.invalid import parse_json, refusal
from protocol.rest import (
    CancelRequest,
    ChatReply,
    ChatRequest,
    CreateSession,
    HistoryQuery,
    Messages,
    Problem,
)


def metadata_of(body: str) -> dict[str, Any] | None:
    return CreateSession.model_validate(parse_json(body)).metadata


def refused(model: type[Any], body: object) -> Refusal:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(body)
    return refusal(caught.value)


@pytest.mark.parametrize("body", ["{}", '{"metadata": null}', '{"user_id": "x", "n": 1}'])
def test_a_session_may_be_created_without_metadata(body: str) -> None:
    assert metadata_of(body) is None


@pytest.mark.parametrize(
    "metadata", [{}, {"user": "지혜", "n": 1}, {"a": {"b": [True, None, 1.5]}}]
)
def test_metadata_is_any_object(metadata: dict[str, Any]) -> None:
    assert metadata_of(json.dumps({"metadata": metadata})) == metadata


@pytest.mark.parametrize("metadata", [[1], "x", 1, True])
def test_metadata_that_is_no_object_is_named(metadata: object) -> None:
    refused_with = refused(CreateSession, {"metadata": metadata})
    assert refused_with.code == "bad_frame"
    assert refused_with.message.startswith("metadata: ")
    assert refused_with.message.endswith(f"given {json.dumps(metadata)}")


def test_metadata_can_be_stored_names_and_values_alike() -> None:
    metadata = metadata_of('{"metadata": {"\\ud800": ["\\udc00", "\\ud83d\\ude00"]}}')
    assert metadata == {"\ufffd": ["\ufffd", "😀"]}


@pytest.mark.parametrize("body", [[], "x", 5])
def test_a_body_that_is_no_object_is_refused(body: object) -> None:
    assert refused(CreateSession, body).message.startswith("body: ")


def test_the_body_of_the_original_web_client_is_taken() -> None:
    body = {
        "session_id": "s1",
        "message": "안녕",
        "max_new_tokens": 256,
        "temperature": 0.7,
        "do_sample": True,
        "use_rag": False,
        "top_k": 5,
        "context": None,
    }
    chat = ChatRequest.model_validate(body)
    assert (chat.session_id, chat.message, chat.max_new_tokens) == ("s1", "안녕", 256)
    assert (chat.temperature, chat.do_sample, chat.replaces) == (0.7, True, None)


@pytest.mark.parametrize("field", ["max_new_tokens", "temperature", "do_sample", "request_id"])
def test_null_means_the_default(field: str) -> None:
    chat = ChatRequest.model_validate({"session_id": "s1", "message": "hi", field: None})
    assert getattr(chat, field) is None


def test_every_field_at_fault_is_named() -> None:
    body = {"message": " ", "max_new_tokens": 0, "temperature": "warm"}
    message = refused(ChatRequest, body).message
    assert [part.split(":")[0] for part in message.split("; ")] == [
        "max_new_tokens",
        "temperature",
        "message",
        "session_id",
    ]


@pytest.mark.parametrize("limit", ["0", "-1", "1.5", "abc", "", str(2**63), "1001"])
def test_a_limit_is_a_number_that_one_page_can_hold(limit: str) -> None:
    assert refused(HistoryQuery, {"limit": limit}).message.startswith("limit: ")
    assert HistoryQuery.model_validate({"limit": "1000"}).limit == 1_000


def test_include_knows_one_word() -> None:
    assert HistoryQuery.model_validate({"include": "replaced"}).include == "replaced"
    said = refused(HistoryQuery, {"include": "all"}).message
    assert said == "include: input should be 'replaced', given \"all\""


def test_cancel_names_a_turn_or_none() -> None:
    assert CancelRequest.model_validate({}).turn is None
    assert CancelRequest.model_validate({"turn": 3}).turn == 3


def test_a_reply_says_that_there_is_no_usage() -> None:
    reply = ChatReply(
        message_id="m1",
        content="안녕",
        created_at="2026-01-31T09:30:00.123456Z",
        token_usage=None,
        turn=1,
        finish_reason="stop",
    )
    assert json.loads(reply.model_dump_json()) == {
        "message_id": "m1",
        "role": "assistant",
        "content": "안녕",
        "created_at": "2026-01-31T09:30:00.123456Z",
        "token_usage": None,
        "turn": 1,
        "finish_reason": "stop",
    }


def test_a_page_says_that_there_is_no_other() -> None:
    page = Messages(session_id="s1", messages=[], total_count=0, next_before=None, cursor=None)
    said = json.loads(page.model_dump_json())
    assert said["next_before"] is None
    assert said["cursor"] is None


def test_a_problem_leaves_out_what_it_does_not_know() -> None:
    problem = Problem(title="Not Found", status=404, detail="no", code="not_found", retryable=False)
    assert json.loads(problem.model_dump_json()) == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "no",
        "code": "not_found",
        "retryable": False,
    }
