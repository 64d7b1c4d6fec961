"""The catalogue says what the contract says, code by code."""

import pytest

from protocol.errors import CATALOGUE, CloseCode, ErrorCode, Refusal
from protocol.server_frames import Error

RETRYABLE = {
    "turn_in_progress",
    "queue_full",
    "rate_limited",
    "upstream_unavailable",
    "upstream_timeout",
    "upstream_stalled",
    "turn_timeout",
    "interrupted",
    "storage_error",
    "shutting_down",
}
FINAL = {
    "bad_json",
    "bad_frame",
    "unknown_type",
    "message_too_long",
    "request_id_conflict",
    "unauthorized",
    "session_not_found",
    "turn_not_found",
    "message_not_found",
    "nothing_to_cancel",
    "upstream_error",
    "context_too_long",
    "internal",
}
CLOSE_CODES = {
    *(1000, 1001, 1003, 1009, 1012, 1013),
    *(4000, 4001, 4003, 4008),
    *(4500, 4502, 4504, 4505),
}


def test_the_codes_are_those_of_the_contract() -> None:
    assert set(ErrorCode) == RETRYABLE | FINAL


def test_every_code_is_in_the_catalogue() -> None:
    assert list(CATALOGUE) == list(ErrorCode)


def test_those_are_retryable_that_the_contract_marks_so() -> None:
    assert {code for code, kind in CATALOGUE.items() if kind.retryable} == RETRYABLE


@pytest.mark.parametrize("code", ErrorCode)
def test_a_code_has_a_status_for_http_and_a_sentence_for_people(code: ErrorCode) -> None:
    kind = CATALOGUE[code]
    assert 400 <= kind.status <= 599
    assert kind.message[0].isupper()
    assert kind.message.endswith(".")


@pytest.mark.parametrize(
    ("status", "codes"),
    [
        (401, {"unauthorized"}),
        (404, {"session_not_found", "turn_not_found", "message_not_found"}),
        (409, {"turn_in_progress", "request_id_conflict", "nothing_to_cancel"}),
        (429, {"rate_limited"}),
        (500, {"internal"}),
    ],
)
def test_the_statuses_are_those_of_the_contract(status: int, codes: set[str]) -> None:
    assert {code for code, kind in CATALOGUE.items() if kind.status == status} == codes


def test_the_close_codes_are_those_of_the_contract() -> None:
    assert set(CloseCode) == CLOSE_CODES


def test_a_refusal_says_the_sentence_of_its_code_unless_it_has_a_better_one() -> None:
    assert Refusal(ErrorCode.QUEUE_FULL).message == CATALOGUE[ErrorCode.QUEUE_FULL].message
    assert Refusal(ErrorCode.BAD_FRAME, "limit: too much").message == "limit: too much"
    assert str(Refusal(ErrorCode.BAD_FRAME, "limit: too much")) == "bad_frame: limit: too much"


@pytest.mark.parametrize("code", ErrorCode)
def test_an_error_frame_says_whether_a_retry_helps(code: ErrorCode) -> None:
    error = Error.of(Refusal(code, retry_after_ms=250))
    assert error.retryable == (code in RETRYABLE)
    assert (error.code, error.retry_after_ms) == (code, 250)


def test_an_error_frame_answers_the_request_that_was_refused() -> None:
    known = Refusal(ErrorCode.BAD_FRAME, request_id="r1")
    assert Error.of(known, request_id="r2").request_id == "r1"
    assert Error.of(Refusal(ErrorCode.BAD_FRAME), request_id="r2").request_id == "r2"
    assert Error.of(Refusal(ErrorCode.BAD_FRAME)).request_id is None
