"""Every REST call, asked as its description allows and as it forbids, answers as described.

Asked of a gateway in a process of its own, with a simulated model server in another.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.config import SchemathesisConfig
from schemathesis.core.transport import Response
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi import checks

from protocol.openapi import OPERATIONS, Operation, errors_of, openapi
from tests.protocol.mutations import examples, more_is_asked_for
from tests.whole.processes import Program, gateway, simulator

SCHEMA = schemathesis.openapi.from_dict(openapi(), config=SchemathesisConfig())
AS_DESCRIBED = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.unsupported_method,
    checks.allow_header_conformance,
]
ANSWERS_WITHIN_S = 10.0
NO_PROXY = {"http": ""}

UNLIMITED = dict.fromkeys(
    ("SESSIONS_PER_MINUTE", "MESSAGES_PER_MINUTE", "MAX_SESSIONS", "MAX_OPEN_TURNS"), "0"
)
ENDLESS = "#sim pieces=9 interval_ms=60000 first_token_ms=0#"
CHOOSY = [call for call in OPERATIONS if call.body or call.query]


def name(call: Operation) -> str:
    return call.name


calls = pytest.mark.parametrize("call", OPERATIONS, ids=name)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A gateway that has nothing to complain of, even after all of this."""
    directory = tmp_path_factory.mktemp("gateway")
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(_programs(directory)) as program,
    ):
        yield program
        assert portal.call(program.stop) == 0
    assert program.complaints == []


@asynccontextmanager
async def _programs(directory: Path) -> AsyncIterator[Program]:
    async with (
        simulator(directory, interval_ms=0) as model,
        gateway(directory, LLM_SERVER_URL=model.url, **UNLIMITED) as program,
    ):
        yield program


@pytest.fixture
def http(program: Program) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=program.url, trust_env=False) as http:
        yield http


def described(call: Operation) -> APIOperation[Any, Any, Any, Any]:
    """Find a call as schemathesis has read it."""
    return SCHEMA[call.path][call.method.upper()]


@contextmanager
def session_of_ours(call: Operation, http: httpx.Client) -> Iterator[str]:
    """Keep a session for one case; where a turn is to be cancelled, one is open."""
    session_id: str = http.post("/api/sessions").json()["session_id"]
    if call.name == "cancel":
        body = {"session_id": session_id, "message": ENDLESS}
        with http.stream("POST", "/api/chat/stream", json=body) as response:
            assert response.status_code == 200
    yield session_id
    http.delete(f"/api/sessions/{session_id}")


def put_in(session_id: str, case: Case[Any]) -> None:
    """Let a case be about that session, where it is about one."""
    if "session_id" in (case.path_parameters or {}):
        case.path_parameters["session_id"] = session_id
    if isinstance(case.body, dict) and isinstance(case.body.get("session_id"), str):
        case.body["session_id"] = session_id


def answer(call: Operation, case: Case[Any], program: Program) -> Response:
    """Make a call, and see that it is answered as is described."""
    # The events of a session never end.
    SCHEMA.config.max_stream_events = 1 if call.name == "get_events" else None
    response = case.call_and_validate(
        base_url=program.url,
        checks=AS_DESCRIBED,
        timeout=ANSWERS_WITHIN_S,
        proxies=NO_PROXY,
    )
    assert response.status_code < 500 or response.status_code in errors_of(call)
    return response


def statuses(
    call: Operation, mode: GenerationMode, *, program: Program, http: httpx.Client
) -> set[int]:
    """Make a call in as many ways as there are examples; return the statuses of the answers."""
    seen: set[int] = set()

    @settings(
        max_examples=examples(16),
        # Unless more is asked for they are always the same: what has to be seen is among them.
        derandomize=not more_is_asked_for(),
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(described(call).as_strategy(mode), st.sampled_from([True, True, True, False]))
    def every(case: Case[Any], ours: bool) -> None:
        with session_of_ours(call, http) as session_id:
            if ours:
                put_in(session_id, case)
            seen.add(answer(call, case, program).status_code)

    every()
    return seen


@calls
def test_what_is_allowed_is_answered_as_described(
    call: Operation, program: Program, http: httpx.Client
) -> None:
    assert call.status in statuses(call, GenerationMode.POSITIVE, program=program, http=http)


@pytest.mark.parametrize("call", CHOOSY, ids=name)
def test_what_is_forbidden_is_answered_as_described(
    call: Operation, program: Program, http: httpx.Client
) -> None:
    assert 422 in statuses(call, GenerationMode.NEGATIVE, program=program, http=http)


@calls
def test_every_limit_and_what_lies_beyond_it_is_answered_as_described(
    call: Operation, program: Program, http: httpx.Client
) -> None:
    for case in SCHEMA.iter_coverage_cases(
        described(call),
        generation_modes=list(GenerationMode),
        generation_config=SCHEMA.config.generation_for(operation=described(call)),
    ):
        with session_of_ours(call, http) as session_id:
            put_in(session_id, case)
            answer(call, case, program)
