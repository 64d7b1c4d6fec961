"""A line of the log, as text and as JSON: where it belongs, and nothing of what people wrote."""

import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.log_lines import (
    FIELDS,
    FORMAT,
    MAX_LINE_CHARS,
    MAX_TRACEBACK_CHARS,
    JsonLine,
    OneLine,
)
from gateway.logging import LogFormat, set_up_logging
from protocol.chat import ChatFields
from tests.gateway.harness import Gateway, call_of, on_sockets, settings_for
from tests.gateway.peers import Peer
from tests.llm.scripted import ScriptedModel

SESSION = "8308d7c7-aa27-4500-ab0c-89729caed6d0"
PLACE = {"session": SESSION, "turn": 3, "attempt": 1, "node": "north-1-x", "code": "turn_timeout"}
FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
MARKER = "마커 8f14e45f"


def record(message: str, *args: Any, error: BaseException | None = None) -> logging.LogRecord:
    exc_info = (type(error), error, error.__traceback__) if error else None
    made = logging.LogRecord("gateway.run", logging.WARNING, "", 0, message, args, exc_info)
    made.created = 1_790_000_000.1234
    return made


def placed(message: str, **place: Any) -> logging.LogRecord:
    made = record(message)
    vars(made).update(place)
    return made


def as_json(line: logging.LogRecord) -> dict[str, Any]:
    written = JsonLine().format(line)
    assert not FORBIDDEN.search(written)
    written.encode()
    return cast(dict[str, Any], json.loads(written))


def test_a_line_of_text_says_where_it_belongs() -> None:
    line = OneLine(FORMAT).format(placed("a turn failed", **PLACE))
    assert line.endswith(
        f"WARNING gateway.run: a turn failed session={SESSION} turn=3 attempt=1"
        " node=north-1-x code=turn_timeout"
    )


def test_where_it_belongs_is_not_cut_off_with_what_is_too_long() -> None:
    line = OneLine(FORMAT).format(placed("x" * 2 * MAX_LINE_CHARS, **PLACE))
    assert len(line) <= MAX_LINE_CHARS
    assert f" characters more) session={SESSION} " in line
    assert line.endswith(" code=turn_timeout")


def test_a_line_of_json_says_all_of_it() -> None:
    assert as_json(placed("a turn failed", **PLACE)) == {
        "time": "2026-09-21T14:13:20.123Z",
        "level": "WARNING",
        "logger": "gateway.run",
        "message": "a turn failed",
        **PLACE,
    }


def test_what_does_not_apply_is_left_out() -> None:
    assert set(as_json(placed("well", node=None, other="x"))) == {
        *("time", "level", "logger", "message")
    }


def test_a_secret_is_left_out_of_json_too() -> None:
    error = ValueError("Bearer abc")
    line = record("token=%s", "abc", error=error)
    vars(line).update(node="Bearer abc")
    assert "abc" not in JsonLine().format(line)


def test_a_traceback_is_in_the_line_and_of_a_long_one_both_ends() -> None:
    told = as_json(record("failed", error=ValueError("first\n" + "x\n" * 100_000 + "last")))
    assert told["traceback"].startswith("ValueError: first\n")
    assert told["traceback"].endswith("\nlast")
    assert len(told["traceback"]) < MAX_TRACEBACK_CHARS + 50
    assert len(JsonLine().format(record("x" * 1_000_000))) < MAX_LINE_CHARS + 200


@given(st.text(), st.text())
def test_every_record_is_one_object_in_one_line(message: str, told: str) -> None:
    line = record("%s", message, error=ValueError(told))
    vars(line).update(dict.fromkeys(FIELDS, told))
    written = JsonLine().format(line)
    assert written.splitlines() == [written]
    as_json(line)


# Of whole conversations


@pytest.fixture(params=["text", "json"])
def form(request: pytest.FixtureRequest) -> Iterator[LogFormat]:
    """Logging as a gateway sets it up, in each form, and as it was afterwards."""
    root = logging.getLogger()
    names = ("gateway", "storage", "llm", "protocol")
    before = (root.handlers[:], root.level)
    levels = {name: logging.getLogger(name).level for name in names}
    set_up_logging(debug=False, form=request.param)
    yield request.param
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.getLogger("uvicorn.error").filters.clear()
    logging.getLogger("asyncio").filters.clear()


async def converse(gateway: Gateway, model: ScriptedModel) -> str:
    """Talk well and badly, with words that can be looked for; return the session."""
    async with gateway.tab() as tab:
        await gateway.exchange(tab, model, MARKER, f"reply {MARKER}", request_id=MARKER)
        await tab.refused(type="chat", message=MARKER + "!", request_id=MARKER)
        await tab.refused(type=MARKER)
        await tab.say("{" + MARKER)
        await tab.refused(type="chat", message=MARKER, temperature=MARKER)
        await tab.refused(type="auth", token=MARKER, turn=MARKER)
        await tab.refused(type="history", before=MARKER)
        for turn, trouble in enumerate(("error", "status", "raw", "vanish"), start=2):
            await tab.chat(MARKER)
            call = await call_of(model)
            match trouble:
                case "error":
                    await call.say(MARKER)
                    await call.error(f"cannot say {MARKER}")
                case "status":
                    await call.status(500, MARKER)
                case "raw":
                    await call.raw(b"data: {" + MARKER.encode() + b"}\n\n")
                    await call.end()
                case "vanish":
                    await call.say(MARKER)
                    await call.vanish()
            await tab.ends(turn)
        body = {"session_id": tab.session_id, "message": [MARKER]}
        assert (await gateway.http.post("/api/chat", json=body)).status_code == 422
        assert (await gateway.http.post("/api/chat", content=MARKER)).status_code == 422
        assert (await gateway.http.get(f"/{MARKER}?{MARKER}")).status_code == 404
        return tab.session_id


async def test_no_word_of_a_conversation_is_in_the_log(
    tmp_path: Path,
    model: ScriptedModel,
    form: LogFormat,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [ours] = [each for each in logging.getLogger().handlers if isinstance(each.formatter, OneLine)]
    assert isinstance(ours, logging.StreamHandler)
    ours.setStream(sys.stderr)
    async with on_sockets(settings_for(tmp_path / "chat.db", model.url)) as gateway:
        session_id = await converse(gateway, model)

        async def mistaken(*_: object, **__: object) -> None:
            ChatFields.model_validate({"message": [MARKER], "temperature": MARKER})

        monkeypatch.setattr("gateway.turns.Turns.accept", mistaken)
        async with gateway.tab(session_id) as tab:
            assert (await tab.refused(type="chat", message=MARKER))["code"] == "internal"
        async with Peer(str(gateway.http.base_url)) as peer:
            await peer.send(b"nonsense\r\n\r\n")
            await peer.rest()
    said = capsys.readouterr().err
    assert MARKER not in said
    assert "8f14e45f" not in said
    assert "a turn failed: UpstreamFailed" in said
    assert "ValidationError" in said
    lines = said.splitlines()
    if form == "json":
        told = [json.loads(line) for line in lines]
        assert {line["level"] for line in told} >= {"INFO", "WARNING", "ERROR"}
        failed = [line for line in told if line["message"].startswith("a turn failed")]
        assert [(line["session"], line["turn"], line["attempt"]) for line in failed] == [
            (session_id, turn, 1) for turn in (2, 3, 4, 5)
        ]
        assert {line["code"] for line in failed} == {"upstream_error", "upstream_unavailable"}
        assert any(line["logger"] == "uvicorn.error" for line in told)
    else:
        failed = [line for line in lines if "a turn failed" in line]
        assert len(failed) == 4
        assert f" session={session_id} turn=2 attempt=1 code=upstream_error" in failed[0]
