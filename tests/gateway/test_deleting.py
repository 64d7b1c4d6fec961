"""Deleting a session: its readers are told, its turn is stopped, nothing of it is left."""

from typing import Any

import anyio
import pytest

from storage.claims import Claim
from tests.gateway.harness import WITHIN_S, Gateway, call_of
from tests.llm.scripted import ScriptedModel

TABLES = ("sessions", "messages", "turns", "message_order")


def nothing_is_left(gateway: Gateway) -> bool:
    return not any(gateway.rows(f"SELECT * FROM {table}") for table in TABLES)


async def test_a_session_is_deleted_once(gateway: Gateway, model: ScriptedModel) -> None:
    async with gateway.tab() as tab:
        await gateway.exchange(tab, model, "q", "a")
    path = f"/api/sessions/{tab.session_id}"
    deleted = await gateway.http.delete(path)
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert nothing_is_left(gateway)
    for call in (gateway.http.delete(path), gateway.http.get(path)):
        gone = await call
        assert (gone.status_code, gone.json()["code"]) == (404, "session_not_found")


async def test_deleting_in_the_middle_of_a_reply_leaves_no_orphans(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab, gateway.tab(tab.session_id) as other:
        await tab.chat("hi")
        call = await call_of(model)
        await call.say("one ")
        await tab.text_until("one ")
        assert (await gateway.http.delete(f"/api/sessions/{tab.session_id}")).status_code == 204
        assert await tab.closed() == 4504
        assert await other.closed() == 4504
        with anyio.fail_after(WITHIN_S):
            await call.closed()
    await anyio.wait_all_tasks_blocked()
    assert nothing_is_left(gateway)
    assert gateway.house.turns.running == 0
    assert gateway.house.admission.calls == 0
    assert tab.session_id not in gateway.house.broker.watched()


async def test_deleting_a_session_that_waits_leaves_no_orphans(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab, gateway.tab() as other:
        await tab.chat("hi")
        call = await call_of(model)
        await other.chat("waits")
        await other.next("queued")
        await gateway.http.delete(f"/api/sessions/{other.session_id}")
        assert await other.closed() == 4504
        await call.complete()
        assert (await tab.ends())["finish_reason"] == "stop"
    assert gateway.rows("SELECT session_id FROM sessions") == [(tab.session_id,)]


async def test_idle_sockets_of_a_deleted_session_are_closed(gateway: Gateway) -> None:
    async with gateway.tab() as tab:
        await gateway.http.delete(f"/api/sessions/{tab.session_id}")
        assert await tab.closed() == 4504


async def test_a_deleted_session_cannot_be_joined_or_asked(
    gateway: Gateway, model: ScriptedModel
) -> None:
    session_id = await gateway.new_session()
    await gateway.http.delete(f"/api/sessions/{session_id}")
    body = {"session_id": session_id, "message": "hi"}
    for path in ("/api/chat", "/api/chat/stream"):
        refused = await gateway.http.post(path, json=body)
        assert (refused.status_code, refused.json()["code"]) == (404, "session_not_found")
    for path in ("messages", "events"):
        refused = await gateway.http.get(f"/api/sessions/{session_id}/{path}")
        assert (refused.status_code, refused.json()["code"]) == (404, "session_not_found")
    assert nothing_is_left(gateway)


@pytest.mark.parametrize("path", ["/api/chat", "/api/chat/stream"])
async def test_whoever_waits_for_a_reply_over_rest_learns_that_the_session_is_gone(
    served: Gateway, model: ScriptedModel, path: str
) -> None:
    session_id = await served.new_session()
    answers: list[str] = []

    async def ask() -> None:
        body = {"session_id": session_id, "message": "hi"}
        answers.append((await served.http.post(path, json=body)).text)

    with anyio.fail_after(WITHIN_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await call_of(model)
            await served.http.delete(f"/api/sessions/{session_id}")
    assert "session_not_found" in answers[0]


@pytest.mark.parametrize("transport", ["websocket", "events"])
async def test_a_session_deleted_while_somebody_joins_is_gone_for_them_too(
    served: Gateway, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    session_id = await served.new_session()
    database = served.house.database
    read = type(database).read

    async def deleted_meanwhile(self: Any, operation: Any) -> Any:
        found = await read(self, operation)
        if operation.__name__ == "join":
            monkeypatch.setattr(type(database), "read", read)
            await served.house.turns.delete_session(Claim(session_id))
        return found

    monkeypatch.setattr(type(database), "read", deleted_meanwhile)
    if transport == "websocket":
        async with served.tab(session_id) as tab:
            assert await tab.closed() == 4504
    else:
        async with served.sse("GET", f"/api/sessions/{session_id}/events") as stream:
            assert (await stream.next("error"))["code"] == "session_not_found"
    await anyio.wait_all_tasks_blocked()
    assert session_id not in served.house.broker.watched()


async def test_other_sessions_go_on(gateway: Gateway, model: ScriptedModel) -> None:
    async with gateway.tab() as tab, gateway.tab() as other:
        await gateway.exchange(other, model, "q", "a")
        await tab.chat("hi")
        await call_of(model)
        await gateway.http.delete(f"/api/sessions/{tab.session_id}")
        complete = await gateway.exchange(other, model, "q2", "a2")
        assert complete["finish_reason"] == "stop"
