"""The original backend's recorded answers, against ours to the same requests.

Statuses are the same and shapes have additions only, but for errors: the original's `detail` is
now and then a list of pydantic's findings, ours is a string, as RFC 9457 has it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.harness import Gateway
from tests.llm.scripted import ScriptedModel

RECORDED = Path(__file__).parents[1] / "wire" / "original"
ADDED = {"session_list_405"}
"""What the original refused and the gateway does: it lists the caller's own sessions."""

NAMES = sorted(path.stem for path in RECORDED.glob("*.req") if path.stem not in ADDED)
SESSION = "390dc12b-80dd-457f-896b-a24869b62e6b"
DELETED = "47523158-1538-420a-990f-ca7860af9268"


@dataclass
class Exchange:
    """One recorded request and the answer to it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    status: int
    answer: bytes
    answer_headers: dict[str, str]


def recorded(name: str) -> Exchange:
    first, headers, body = _parted((RECORDED / f"{name}.req").read_bytes())
    method, target, _ = first.split(" ", 2)
    line, answer_headers, answer = _parted((RECORDED / f"{name}.resp").read_bytes())
    status = int(line.split(" ")[1])
    return Exchange(method, target, headers, body, status, answer, answer_headers)


def _parted(raw: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return first, {name.lower(): value.strip() for name, _, value in pairs}, body


@pytest.fixture
async def session_id(gateway: Gateway, model: ScriptedModel) -> str:
    """A session with a few turns, as the recorded one had."""
    model.autoreply(lambda _: ["안녕하세요! ", "믿음입니다."])
    session_id = await gateway.new_session()
    for path in ("/api/chat", "/api/chat/stream", "/api/chat"):
        body = {"session_id": session_id, "message": "안녕하세요!"}
        assert (await gateway.http.post(path, json=body)).status_code == 200
    return session_id


async def replayed(gateway: Gateway, exchange: Exchange, session_id: str) -> httpx.Response:
    own = {"host", "content-length", "accept"}
    return await gateway.http.request(
        exchange.method,
        exchange.target.replace(SESSION, session_id),
        headers={k: v for k, v in exchange.headers.items() if k not in own},
        content=exchange.body.replace(SESSION.encode(), session_id.encode()),
    )


def missing(expected: Any, given: Any, at: str = "") -> list[str]:
    """Name what the original's answer holds and ours does not."""
    match expected:
        case dict():
            if not isinstance(given, dict):
                return [f"{at} is no object"]
            lost = [f"{at}.{key}" for key in expected if key not in given]
            same = [key for key in expected if key in given]
            return lost + [m for k in same for m in missing(expected[k], given[k], f"{at}.{k}")]
        case list():
            if not isinstance(given, list):
                return [f"{at} is no list"]
            pairs = zip(expected, given, strict=False)
            return [m for i, (e, g) in enumerate(pairs) for m in missing(e, g, f"{at}[{i}]")]
        case bool() | str():
            return [] if type(given) is type(expected) else [f"{at} is {type(given).__name__}"]
        case int() | float():
            numeric = isinstance(given, (int, float)) and not isinstance(given, bool)
            return [] if numeric else [f"{at} is no number"]
        case _:
            return []


@pytest.mark.parametrize("name", [n for n in NAMES if "stream" not in n or "_in_" in n])
async def test_status_and_shape_are_the_original_ones(
    gateway: Gateway, session_id: str, name: str
) -> None:
    exchange = recorded(name)
    if DELETED in exchange.target and exchange.status == 204:
        exchange.target = exchange.target.replace(DELETED, await gateway.new_session())
    answer = await replayed(gateway, exchange, session_id)
    assert answer.status_code == exchange.status, answer.text
    if exchange.status >= 400:
        assert isinstance(answer.json()["detail"], str)
    elif exchange.answer_headers.get("content-type") == "application/json" and exchange.answer:
        assert answer.headers["content-type"] == "application/json"
        assert missing(json.loads(exchange.answer), answer.json()) == []


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("preflight")])
async def test_preflights_are_answered_as_before(
    gateway: Gateway, session_id: str, name: str
) -> None:
    exchange = recorded(name)
    answer = await replayed(gateway, exchange, session_id)
    for header in ("access-control-allow-origin", "access-control-allow-credentials"):
        assert answer.headers[header] == exchange.answer_headers[header]
    asked = exchange.headers["access-control-request-method"]
    assert asked in answer.headers["access-control-allow-methods"]
    assert "content-type" in answer.headers["access-control-allow-headers"].lower()


async def test_the_events_of_a_stream_have_the_original_fields(
    gateway: Gateway, session_id: str
) -> None:
    exchange = recorded("chat_stream")
    answer = await replayed(gateway, exchange, session_id)
    for header in ("content-type", "x-accel-buffering"):
        assert answer.headers[header] == exchange.answer_headers[header]
    assert "no-cache" in answer.headers["cache-control"]
    expected = {event["type"]: event for event in events(exchange.answer)}
    given = {event["type"]: event for event in events(answer.content)}
    assert list(given) == ["start", "token", "complete"]
    for kind in ("token", "complete"):
        assert missing(expected[kind], given[kind]) == []


async def test_messages_come_in_the_original_order(gateway: Gateway, session_id: str) -> None:
    expected = json.loads(recorded("messages").answer)
    page = await gateway.messages(session_id)
    roles = [message["role"] for message in expected["messages"][:6]]
    assert [message["role"] for message in page["messages"]] == roles
    assert page["total_count"] == 6
    for message in page["messages"]:
        if message["token_usage"] is not None:
            usage = expected["messages"][1]["token_usage"]
            assert set(message["token_usage"]) == set(usage)


def events(body: bytes) -> list[dict[str, Any]]:
    lines = [line for line in body.split(b"\n") if line.startswith(b"data: {")]
    return [json.loads(line[6:]) for line in lines]
