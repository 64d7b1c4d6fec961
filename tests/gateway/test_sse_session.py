"""`GET /api/sessions/{id}/events`: a session's log, as an `EventSource` reads it."""

import anyio
import pytest

from gateway import sse
from tests.gateway.harness import Gateway, call_of
from tests.llm.scripted import ScriptedModel


def events_of(session_id: str, **query: str) -> tuple[str, str]:
    parameters = "&".join(f"{name}={value}" for name, value in query.items())
    return "GET", f"/api/sessions/{session_id}/events?{parameters}"


async def test_it_begins_with_ready_at_once(served: Gateway) -> None:
    session_id = await served.new_session()
    async with served.sse(*events_of(session_id)) as stream:
        ready = await stream.receive()
        assert ready is not None
        assert ready["type"] == "ready"
        assert (ready["session_id"], ready["created"]) == (session_id, False)
        assert (ready["resumed"], ready["cursor"], ready["turn"]) == (False, "0.0.end", None)
        # It is no event of the log: a browser must not take it for a place in it.
        assert stream.ids == [None]
        headers = stream.response.headers
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        assert headers["cache-control"] == "no-cache, no-transform"
        assert headers["x-accel-buffering"] == "no"


async def test_it_tells_every_turn_as_it_comes(served: Gateway, model: ScriptedModel) -> None:
    async with served.tab() as tab, served.sse(*events_of(tab.session_id)) as stream:
        for turn in (1, 2):
            await tab.chat(f"q{turn}")
            call = await call_of(model)
            await call.say("one ")
            token = await stream.next("token")
            await call.complete()
            assert await stream.next("complete") == await tab.ends(turn)
            assert (token["turn"], token["content"]) == (turn, "one ")
        kinds = [event["type"] for event in stream.events]
        assert kinds == ["ready", *["start", "token", "complete"] * 2]


async def test_it_resumes_in_the_middle_of_a_reply(served: Gateway, model: ScriptedModel) -> None:
    async with served.tab() as tab:
        await tab.chat("hi")
        call = await call_of(model)
        async with served.sse(*events_of(tab.session_id)) as stream:
            await call.say("one ")
            await stream.next("token")
        last = stream.ids[-1]
        assert last == "1.1.4"
        await call.say("two ")
        await tab.text_until("one two ")
        async with served.sse(*events_of(tab.session_id), headers={"Last-Event-ID": last}) as back:
            ready = await back.next("ready")
            assert (ready["resumed"], ready["cursor"]) == (True, "1.1.4")
            assert ready["turn"] == {"turn": 1, "status": "running"}
            await call.say("three")
            await call.complete()
            await back.next("complete")
            assert back.text() == "two three"


async def test_the_last_event_id_wins_over_after(served: Gateway, model: ScriptedModel) -> None:
    async with served.tab() as tab:
        for turn in (1, 2):
            await served.exchange(tab, model, f"q{turn}", "a")
    path = events_of(tab.session_id, after="0.0.end")
    # An EventSource reconnects to the same URL, with the header.
    async with served.sse(*path, headers={"Last-Event-ID": "1.1.end"}) as stream:
        await stream.next("complete")
        assert {event["turn"] for event in stream.events[1:]} == {2}
    async with served.sse(*path) as stream:
        await stream.next("complete")
        assert {event["turn"] for event in stream.events[1:]} == {1}


@pytest.mark.parametrize("after", ["nonsense", "7.1.0", "1.1.99"])
async def test_a_cursor_that_cannot_be_is_not_resumed(
    served: Gateway, model: ScriptedModel, after: str
) -> None:
    async with served.tab() as tab:
        await served.exchange(tab, model, "q", "a")
    async with served.sse(*events_of(tab.session_id, after=after)) as stream:
        ready = await stream.next("ready")
        assert (ready["resumed"], ready["cursor"]) == (False, "1.1.end")


async def test_a_failed_turn_is_told_in_its_own_words(
    served: Gateway, model: ScriptedModel
) -> None:
    async with served.tab() as tab, served.sse(*events_of(tab.session_id)) as stream:
        await tab.chat("hi")
        await (await call_of(model)).error()
        error = await stream.next("error")
        assert error == await tab.ends()
        assert stream.ids[-1] == "1.1.end"
        assert not stream.done


async def test_a_deleted_session_ends_it(served: Gateway, model: ScriptedModel) -> None:
    async with served.tab() as tab, served.sse(*events_of(tab.session_id)) as stream:
        await tab.chat("hi")
        await call_of(model)
        await stream.next("start")
        await served.http.delete(f"/api/sessions/{tab.session_id}")
        error = await stream.next("error")
        assert error["code"] == "session_not_found"
        assert stream.ids[-1] is None
        assert await stream.receive() is None
    gone = await served.http.get(f"/api/sessions/{tab.session_id}/events")
    assert gone.status_code == 404


async def test_comments_keep_it_alive(served: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.05)
    session_id = await served.new_session()
    async with served.sse(*events_of(session_id)) as stream:
        await stream.next("ready")
        for _ in range(2):
            assert (await stream.block()).startswith(b":")


async def test_a_reader_that_leaves_is_forgotten(served: Gateway) -> None:
    session_id = await served.new_session()
    async with served.sse(*events_of(session_id)) as stream:
        await stream.next("ready")
        assert session_id in served.house.broker.watched()
    with anyio.fail_after(5):
        while session_id in served.house.broker.watched():
            await served.http.get("/api/health")
