"""How turns fail: each fault of the model server has its code, and what was said is kept."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.run import TurnLimits
from protocol.errors import CATALOGUE, ErrorCode
from storage.operations import StorageError
from tests.gateway.harness import (
    Gateway,
    Json,
    call_of,
    in_process,
    settings_for,
)
from tests.llm.scripted import Call, ScriptedModel

Fault = Callable[[Call], Awaitable[None]]
LONG = 60.0


async def says_nothing(call: Call) -> None:
    await call.start()


async def refuses(call: Call) -> None:
    await call.status(500, "http://10.0.0.7:8000 Traceback (most recent call last)")


async def talks_nonsense(call: Call) -> None:
    await call.wire(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nhi")
    call.answered.set()


async def says(call: Call) -> None:
    await call.say("one ", "two ")


async def says_and_vanishes(call: Call) -> None:
    await call.say("one ", "two ")
    await call.vanish()


async def says_and_errs(call: Call) -> None:
    await call.say("one ", "two ")
    await call.error("CUDA out of memory at http://10.0.0.7:8000")


async def errs_without_a_word(call: Call) -> None:
    await call.error("")


async def says_and_ends_without_an_end(call: Call) -> None:
    await call.say("one ", "two ")
    await call.end()


@pytest.mark.parametrize(
    ("fault", "limits", "code", "text"),
    [
        (says_nothing, {"llm_first_token_timeout_s": 0.1}, "upstream_timeout", ""),
        (says, {"llm_silence_timeout_s": 0.1}, "upstream_stalled", "one two "),
        (says, {"turn_timeout_s": 0.3}, "turn_timeout", "one two "),
        (says_and_vanishes, {}, "upstream_unavailable", "one two "),
        (says_and_errs, {}, "upstream_error", "one two "),
        (errs_without_a_word, {}, "upstream_error", ""),
        # The original takes this for a whole answer.
        (says_and_ends_without_an_end, {}, "upstream_error", "one two "),
        (refuses, {}, "upstream_error", ""),
        (talks_nonsense, {}, "upstream_error", ""),
    ],
)
async def test_a_fault_of_the_model_server_ends_the_turn_and_keeps_its_text(
    tmp_path: Path,
    model: ScriptedModel,
    fault: Fault,
    limits: dict[str, float],
    code: str,
    text: str,
) -> None:
    async with (
        in_process(settings_for(tmp_path / "chat.db", model.url, **limits)) as gateway,
        gateway.tab() as tab,
    ):
        await tab.chat("hi", request_id="r1")
        await fault(await call_of(model))
        error = await tab.ends()
        kind = CATALOGUE[ErrorCode(code)]
        assert error == {
            "type": "error",
            "id": "1.1.end",
            "turn": 1,
            "message_id": tab.frames[1]["message_id"],
            "code": code,
            "message": kind.message,
            "retryable": kind.retryable,
        }
        assert tab.text() == text
        # It was committed before it was announced.
        assert gateway.replies() == [("error", text)]
        [_, reply] = (await tab.history())["messages"]
        assert (reply["content"], reply["finish_reason"]) == (text, "error")
        assert reply["message_id"] == error["message_id"]
        says_all = json.dumps(await tab.settle())
        assert "10.0.0.7" not in says_all
        assert model.url.removeprefix("http://") not in says_all
        assert "Traceback" not in says_all
        # And the session is usable at once.
        await tab.say("again")
        call = await call_of(model)
        await call.say("fine")
        await call.complete()
        assert (await tab.ends(2))["finish_reason"] == "stop"


async def test_with_nobody_at_its_address_the_model_server_is_unavailable(
    tmp_path: Path, free_port: int
) -> None:
    settings = settings_for(
        tmp_path / "chat.db", f"http://127.0.0.1:{free_port}", turn_timeout_s=LONG
    )
    async with in_process(settings) as gateway, gateway.tab() as tab:
        await tab.chat("hi")
        error = await tab.ends()
        assert (error["code"], error["retryable"]) == ("upstream_unavailable", True)
        assert str(free_port) not in json.dumps(tab.frames)
    assert gateway.replies() == [("error", "")]


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (refuses, 502, "upstream_error"),
        (talks_nonsense, 502, "upstream_error"),
        (says_nothing, 504, "upstream_timeout"),
    ],
)
async def test_over_rest_a_failed_turn_is_a_problem_that_names_it(
    tmp_path: Path, model: ScriptedModel, fault: Fault, status: int, code: str
) -> None:
    settings = settings_for(tmp_path / "chat.db", model.url, llm_reply_timeout_s=0.2)
    async with in_process(settings) as gateway:
        session_id = await gateway.new_session()
        answers: list[Any] = []

        async def ask() -> None:
            body = {"session_id": session_id, "message": "hi"}
            answers.append(await gateway.http.post("/api/chat", json=body))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await fault(await call_of(model))
        [answer] = answers
        problem = answer.json()
        assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
        assert answer.headers["content-type"] == "application/problem+json"
        [_, reply] = (await gateway.messages(session_id))["messages"]
        assert (problem["turn"], problem["message_id"]) == (1, reply["message_id"])
        assert reply["finish_reason"] == "error"
        assert "10.0.0.7" not in answer.text


async def test_a_model_server_that_failed_too_often_is_left_in_peace(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await gateway.exchange(tab, model, "hi", "hello", request_id="r1")
        for turn in range(2, 7):
            await tab.say("hi")
            await says_and_vanishes(await call_of(model))
            assert (await tab.ends(turn))["code"] == "upstream_unavailable"
        error = await tab.refused(type="chat", message="hi", request_id="r7")
        assert (error["code"], error["retryable"]) == ("upstream_unavailable", True)
        assert error["retry_after_ms"] >= 1
        # Refused before `start`: nothing is stored. And a repeat is recognised even now.
        assert "turn" not in error
        assert (await tab.chat("hi", request_id="r1"))["duplicate"] is True
        body = {"session_id": tab.session_id, "message": "hi"}
        refused = await gateway.http.post("/api/chat", json=body)
        assert (refused.status_code, refused.json()["code"]) == (502, "upstream_unavailable")
        assert int(refused.headers["Retry-After"]) >= 1
    assert len(gateway.rows("SELECT * FROM turns")) == 6


async def test_a_turn_outlives_its_socket(gateway: Gateway, model: ScriptedModel) -> None:
    # The original loses the reply when the client leaves, and keeps the question.
    async with gateway.tab() as tab:
        await tab.chat("hi")
        call = await call_of(model)
        await call.say("one ")
        await tab.text_until("one ")
    await call.say("two")
    await call.complete()
    async with gateway.tab(tab.session_id, after="0.0.end") as back:
        assert (await back.ends())["finish_reason"] == "stop"
        assert back.text() == "one two"


async def test_a_question_that_no_longer_fits_fails_its_turn(
    tmp_path: Path, model: ScriptedModel
) -> None:
    wide = settings_for(tmp_path / "chat.db", model.url)
    async with in_process(wide) as gateway, gateway.tab() as tab:
        await gateway.exchange(tab, model, "x" * 50, "a")
    narrow = settings_for(tmp_path / "chat.db", model.url, max_context_chars=20)
    async with in_process(narrow) as gateway, gateway.tab(tab.session_id) as tab:
        # Its question is only known once it is read from storage: too late to refuse.
        await tab.say("/regenerate")
        error = await tab.ends(2)
        assert (error["code"], error["retryable"]) == ("context_too_long", False)


# Storage


def failing(monkeypatch: pytest.MonkeyPatch, gateway: Gateway, name: str, times: int) -> None:
    """Let the next few writes of one operation fail, as on a full disk."""
    database = gateway.house.database
    write = type(database).write
    left = times

    async def broken(self: Any, operation: Any) -> Any:
        nonlocal left
        if operation.__name__.endswith(name) and left:
            left -= 1
            operation.close()
            raise StorageError("/var/lib/chat.db: database or disk is full")
        return await write(self, operation)

    monkeypatch.setattr(type(database), "write", broken)


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try storage again soon; the times are arguments, whose defaults the application uses."""
    fields = TurnLimits.__init__.__defaults__
    assert fields is not None
    defaults = dict(zip(TurnLimits.__match_args__, fields, strict=True))
    quick = {**defaults, "storage_retry_s": 0.01}
    monkeypatch.setattr(TurnLimits.__init__, "__defaults__", tuple(quick.values()))


@pytest.mark.usefixtures("quick_retries")
async def test_when_the_end_cannot_be_stored_clients_are_told_and_the_turn_ends_later(
    gateway: Gateway, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway.tab() as tab, gateway.tab(tab.session_id) as other:
        await tab.chat("hi")
        call = await call_of(model)
        failing(monkeypatch, gateway, "end", times=2)
        await call.say("hello")
        await call.complete()
        for each in (tab, other):
            troubles: list[Json] = [await each.next("error", "complete")]
            troubles.append(await each.next("error", "complete"))
            assert [t.get("code") for t in troubles] == ["storage_error"] * 2
            assert not {"id", "turn", "message_id"} & set(troubles[0])
            assert troubles[0]["retryable"] is True
            assert "disk" not in json.dumps(troubles)
            assert (await each.ends())["finish_reason"] == "stop"
            assert each.text() == "hello"
    assert gateway.replies() == [("stop", "hello")]


async def test_when_a_message_cannot_be_stored_it_is_refused(
    gateway: Gateway, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway.tab() as tab:
        failing(monkeypatch, gateway, "accept", times=1)
        error = await tab.refused(type="chat", message="hi", request_id="r1")
        assert (error["code"], error["retryable"]) == ("storage_error", True)
        assert error["request_id"] == "r1"
        assert "turn" not in error
        assert gateway.house.admission.calls == 0
        # Retryable, without a turn: the same again, with the same id.
        assert (await tab.chat("hi", request_id="r1"))["duplicate"] is False


async def test_over_rest_a_storage_error_is_503(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, gateway, "create", times=1)
    refused = await gateway.http.post("/api/sessions", json={})
    assert (refused.status_code, refused.json()["code"]) == (503, "storage_error")
    assert "disk" not in refused.text
