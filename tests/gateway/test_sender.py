"""What one client is sent: at once while it keeps up, by a task while it does not."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from gateway.brokers import live as live_turns
from gateway.sender import Sender
from gateway.websocket import Connection
from protocol import server_frames
from tests.gateway.harness import Gateway, Tab, on_sockets, settings_for
from tests.gateway.peers import until
from tests.llm.scripted import ScriptedModel


def sender_of(gateway: Gateway) -> Any:
    """The sending half of the only connection."""
    [connection] = gateway.house.connections
    assert isinstance(connection, Connection)
    return connection._sender


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[Any]:
    """Note every call of a function."""
    calls: list[Any] = []
    original = getattr(owner, name)

    def call(*arguments: Any) -> Any:
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(owner, name, call)
    return calls


async def told(tab: Tab) -> list[str]:
    """What is told up to the end of a turn: the text of tokens, the type of other frames."""
    await tab.ends()
    return [str(frame.get("content", frame["type"])) for frame in tab.frames]


async def test_a_client_that_keeps_up_needs_no_task(
    served: Gateway, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served.tab() as tab:
        await tab.settle()
        tab.frames.clear()
        tasks = counted(monkeypatch, Sender, "_send_all")
        await tab.chat("안녕")
        call = await model.call()
        for piece in ("안녕", "하세", "요"):
            await call.say(piece)
            assert (await tab.next("token"))["content"] == piece
        await call.complete()
        assert await told(tab) == ["accepted", "start", "안녕", "하세", "요", "complete"]
        assert tasks == []


async def test_while_its_socket_is_full_text_waits_in_the_log_and_merges(
    served: Gateway, model: ScriptedModel
) -> None:
    async with served.tab() as tab:
        await tab.chat("안녕")
        call = await model.call()
        await call.say("0")
        await tab.next("token")
        line = sender_of(served)._line
        line.pause_writing()
        for piece in "12345":
            await call.say(piece)
        live = served.house.broker.live(tab.session_id)
        assert live
        await until(lambda: live.length == 6)
        line.resume_writing()
        await call.complete()
        _, _, first, *rest, _ = await told(tab)
        assert first + "".join(rest) == "012345"
        # One frame was on its way when the others came.
        assert len(rest) <= 2


async def test_a_frame_is_encoded_once_for_all_the_tabs_of_a_session(
    served: Gateway, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = counted(monkeypatch, live_turns, "token_frame")
    messages = counted(monkeypatch, server_frames, "text_message")
    async with served.tab() as tab, AsyncExitStack() as stack:
        tabs = [await stack.enter_async_context(served.tab(tab.session_id)) for _ in range(20)]
        await tab.chat("안녕")
        call = await model.call()
        for piece in ("안녕", "하세", "요"):
            await call.say(piece)
            for each in (tab, *tabs):
                assert (await each.next("token"))["content"] == piece
        await call.complete()
        assert len(frames) == 3
        assert sum('"token"' in text for (text,) in messages) == 3


async def test_a_socket_that_cannot_be_written_to_is_closed_and_nobody_else_is_harmed(
    served: Gateway, model: ScriptedModel, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(message: bytes) -> None:
        if b'"token"' in message:
            raise RuntimeError("the handle is closed")
        written(message)

    async with served.tab() as tab:
        peer = sender_of(served)._peer
        written, peer.write = peer.write, broken
        async with served.tab(tab.session_id) as other:
            await other.chat("안녕")
            call = await model.call()
            await call.say("안녕")
            await call.complete()
            assert await told(other) == ["accepted", "start", "안녕", "complete"]
        assert await tab.closed() == 4008
    # What others say meanwhile, such as that the model server is ready, is nothing of this.
    said = [record.getMessage() for record in caplog.records if record.name == "gateway.sender"]
    assert said == ["a WebSocket could not be written to"]


async def test_after_silence_it_is_pinged_at_once(tmp_path: Path, model: ScriptedModel) -> None:
    settings = settings_for(tmp_path / "chat.db", model.url, heartbeat_s=0.05)
    async with on_sockets(settings) as gateway, gateway.tab() as tab:
        assert await tab.receive() == {"type": "ping"}
        assert await tab.receive() == {"type": "ping"}
