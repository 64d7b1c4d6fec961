"""The REST calls for sessions, and what they say to requests that make no sense."""

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.gateway.harness import Gateway, in_process, settings_for
from tests.llm.scripted import ScriptedModel

LAST_USE = "SELECT last_accessed FROM sessions WHERE session_id = ?"


@pytest.mark.parametrize(
    ("body", "metadata"),
    [
        (b"", {}),
        (b"  \n", {}),
        (b"{}", {}),
        (b"null", {}),
        (b'{"metadata": null}', {}),
        (b'{"metadata": {}}', {}),
        (
            '{"metadata": {"user": "지혜", "n": [1, null]}}'.encode(),
            {"user": "지혜", "n": [1, None]},
        ),
        # The original's clients put fields beside it.
        (b'{"user_agent": "x", "timestamp": 1}', {}),
        (b'{"metadata": {"a": "\\ud800"}}', {"a": "\ufffd"}),
    ],
)
async def test_a_session_is_created_with_or_without_metadata(
    gateway: Gateway, body: bytes, metadata: dict[str, Any]
) -> None:
    created = await gateway.http.post("/api/sessions", content=body)
    assert created.status_code == 201
    session = created.json()
    assert set(session) == {"session_id", "created_at", "last_accessed", "metadata"}
    assert str(UUID(session["session_id"])) == session["session_id"]
    assert session["metadata"] == metadata
    assert session["created_at"].endswith("Z")
    read = await gateway.http.get(f"/api/sessions/{session['session_id']}")
    assert read.status_code == 200
    assert read.json() | {"last_accessed": None} == session | {"last_accessed": None}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{x", "bad_json"),
        (b'{"metadata": NaN}', "bad_json"),
        (b"\xff\xfe", "bad_json"),
        (b'{"metadata": [1]}', "bad_frame"),
        (b'{"metadata": "x"}', "bad_frame"),
        (b'"{}"', "bad_frame"),
        (b"[]", "bad_frame"),
        (b"7", "bad_frame"),
        (b"[" * 100_000, "bad_json"),
    ],
)
async def test_a_body_that_is_none_is_422(gateway: Gateway, body: bytes, code: str) -> None:
    refused = await gateway.http.post("/api/sessions", content=body)
    assert refused.status_code == 422
    assert refused.json()["code"] == code
    assert gateway.rows("SELECT * FROM sessions") == []


async def test_reading_a_session_counts_as_its_use(gateway: Gateway) -> None:
    session_id = await gateway.new_session()
    for path in ("", "/messages"):
        [(before,)] = gateway.rows(LAST_USE, session_id)
        assert (await gateway.http.get(f"/api/sessions/{session_id}{path}")).status_code == 200
        # It is noted on the side; writes keep their order.
        await gateway.new_session()
        [(after,)] = gateway.rows(LAST_USE, session_id)
        assert after > before


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/sessions/{}"),
        ("DELETE", "/api/sessions/{}"),
        ("GET", "/api/sessions/{}/messages"),
        ("GET", "/api/sessions/{}/events"),
        ("POST", "/api/sessions/{}/cancel"),
    ],
)
@pytest.mark.parametrize(
    "session_id", ["00000000-0000-4000-8000-000000000000", "abc", "%00", "믿음", "'--"]
)
async def test_an_unknown_session_is_404_whatever_its_name(
    gateway: Gateway, method: str, path: str, session_id: str
) -> None:
    missing = await gateway.http.request(method, path.format(session_id))
    assert missing.status_code == 404
    assert missing.json()["code"] == "session_not_found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/api/sessions", {"GET", "POST"}),
        ("PUT", "/api/sessions/x", {"GET", "DELETE"}),
        ("POST", "/api/sessions/x/messages", {"GET"}),
        ("POST", "/api/sessions/x/events", {"GET"}),
        ("GET", "/api/sessions/x/cancel", {"POST"}),
        ("GET", "/api/chat", {"POST"}),
        ("GET", "/api/chat/stream", {"POST"}),
        ("POST", "/api/health", {"GET"}),
    ],
)
async def test_a_wrong_method_is_405_and_says_which_are_right(
    gateway: Gateway, method: str, path: str, allowed: set[str]
) -> None:
    refused = await gateway.http.request(method, path)
    assert refused.status_code == 405
    problem = refused.json()
    assert (problem["code"], problem["retryable"]) == ("method_not_allowed", False)
    assert set(refused.headers["allow"].split(", ")) - {"HEAD"} == allowed


async def test_an_unknown_path_is_404(gateway: Gateway) -> None:
    missing = await gateway.http.get("/api/nope")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")


async def test_the_root_says_what_this_is(gateway: Gateway) -> None:
    about = (await gateway.http.get("/", headers={"Accept": "application/json"})).json()
    assert about["status"] == "running"
    assert about["endpoints"]["chat"]["stream"] == "POST /api/chat/stream"


@pytest.mark.parametrize("path", ["/api/sessions", "/api/chat", "/api/chat/stream"])
@pytest.mark.parametrize("told", [True, False])
async def test_a_body_over_the_limit_is_413(
    tmp_path: Path, model: ScriptedModel, path: str, told: bool
) -> None:
    settings = settings_for(tmp_path / "chat.db", model.url, max_body_bytes=4_096)

    async def body() -> Any:
        for _ in range(5):
            yield b" " * 1_000

    async with in_process(settings) as gateway:
        content = b" " * 5_000 if told else body()
        refused = await gateway.http.post(path, content=content)
    assert refused.status_code == 413
    problem = refused.json()
    assert (problem["code"], problem["retryable"]) == ("body_too_large", False)
    assert "4096" in problem["detail"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/api/nope", None),
        ("GET", "/api/chat", None),
        ("GET", "/api/sessions/nobody", None),
        ("DELETE", "/api/sessions/nobody", None),
        ("POST", "/api/sessions", b"{x"),
        ("POST", "/api/sessions", b"[]"),
        ("POST", "/api/chat", b"{}"),
        ("POST", "/api/chat", b'{"session_id": "nobody", "message": "hi"}'),
        ("POST", "/api/chat/stream", b'{"session_id": "nobody", "message": "hi"}'),
        ("POST", "/api/sessions/nobody/cancel", b'{"turn": "x"}'),
        ("GET", "/api/sessions/nobody/messages?limit=x", None),
        ("POST", "/api/sessions", b"x" * 600_000),
    ],
)
async def test_every_error_is_a_problem(
    gateway: Gateway, method: str, path: str, body: bytes | None
) -> None:
    answer = await gateway.http.request(method, path, content=body)
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"title", "status", "detail", "code", "retryable"} <= set(problem)
    assert problem["status"] == answer.status_code >= 400
    assert isinstance(problem["detail"], str)
    assert isinstance(problem["retryable"], bool)
    assert problem["detail"]
    assert "Traceback" not in answer.text
