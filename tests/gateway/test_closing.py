"""When the server closes a WebSocket, with which code, and what it remembers of one that left."""

from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from gateway import sender, websocket
from gateway.turns import Turns
from gateway.websocket import Connection
from tests.gateway.harness import WITHIN_S, Gateway, on_sockets, settings_for
from tests.llm.scripted import ScriptedModel


async def test_a_binary_frame_closes_with_1003(gateway: Gateway) -> None:
    async with gateway.tab() as tab:
        await tab.socket.send_bytes(b"\x00\x01")
        assert await tab.closed() == 1003


async def test_ten_bad_frames_in_a_row_close_with_4502(gateway: Gateway) -> None:
    async with gateway.tab() as tab:
        for _ in range(10):
            await tab.say("{")
        assert await tab.closed() == 4502
        assert [frame["code"] for frame in tab.frames] == ["bad_json"] * 10


async def test_a_good_frame_in_between_starts_the_count_anew(gateway: Gateway) -> None:
    async with gateway.tab() as tab:
        for _ in range(3):
            for _ in range(9):
                await tab.say("{")
            await tab.say("/ping")
            await tab.next("pong")
        # Refused is not invalid: such frames make sense, and do not count.
        for _ in range(12):
            await tab.say("/cancel")
        await tab.settle()


async def test_too_many_unread_frames_close_with_4003(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object, **__: object) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr(Turns, "accept", never)
    monkeypatch.setattr(websocket, "MAX_INBOX_FRAMES", 8)
    async with gateway.tab() as tab:
        for _ in range(10):
            await tab.say("hello")
        assert await tab.closed() == 4003


@pytest.mark.parametrize(("sent", "closes"), [(4, False), (5, True)])
async def test_what_waits_to_be_answered_is_bounded_in_characters_too(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, sent: int, closes: bool
) -> None:
    answers = anyio.Event()

    async def waits(*_: object, **__: object) -> None:
        await answers.wait()

    # The first is being answered; four of a quarter wait.
    monkeypatch.setattr(Turns, "cancel", waits)
    async with gateway.tab() as tab:
        await tab.say("/cancel")
        for _ in range(sent):
            await tab.say('{"type": "ping"' + " " * (websocket.MAX_INBOX_CHARS // 4 - 16) + "}")
        if closes:
            assert await tab.closed() == 4003
        else:
            answers.set()
            for _ in range(sent):
                await tab.next("pong")
            # What was answered counts no more.
            await tab.settle()


@pytest.mark.parametrize("fits", [True, False])
async def test_a_frame_over_the_limit_closes_with_1009(
    tmp_path: Path, model: ScriptedModel, fits: bool
) -> None:
    settings = settings_for(tmp_path / "chat.db", model.url, max_frame_bytes=4_096)
    async with on_sockets(settings) as gateway, gateway.tab() as tab:
        ping: Callable[[int], str] = lambda size: '{"type": "ping"' + " " * (size - 16) + "}"  # noqa: E731
        await tab.say(ping(4_096 if fits else 4_097))
        if fits:
            assert await tab.receive() == {"type": "pong"}
        else:
            assert await tab.closed() == 1009


async def test_a_client_that_does_not_read_its_answers_is_not_answered_further(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = anyio.Event()

    async def never_sent(*_: object) -> None:
        stuck.set()
        await anyio.sleep_forever()

    async with gateway.tab() as tab:
        [connection] = gateway.house.connections
        assert isinstance(connection, Connection)
        monkeypatch.setattr(connection._socket, "send_text", never_sent)
        monkeypatch.setattr(sender, "MAX_OUTBOX_FRAMES", 4)
        for _ in range(32):
            await tab.say("/ping")
        with anyio.fail_after(WITHIN_S):
            await stuck.wait()
        await anyio.wait_all_tasks_blocked()
        assert len(connection._sender._outbox) <= 4


async def test_a_socket_that_leaves_is_forgotten(gateway: Gateway) -> None:
    async with gateway.tab() as tab:
        assert len(gateway.house.connections) == 1
    await anyio.wait_all_tasks_blocked()
    assert not gateway.house.connections
    assert tab.session_id not in gateway.house.broker.watched()
