"""Peers that do not read, or are no longer there, and what the gateway makes of them."""

import gc
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from inspect import getsource, isfunction, isgenerator
from pathlib import Path
from typing import Any
from weakref import ref

import anyio
import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.server import ServerProtocol

from gateway.http_connection import ChatHttp
from gateway.listening import PeerLimits
from gateway.sockets import ChatSocket
from gateway.transports import BoundedTransport
from gateway.waiting import Gate, Mailbox
from tests.gateway.harness import Json
from tests.gateway.peers import (
    CLOSE,
    PING,
    PONG,
    SMALL,
    Peer,
    Served,
    half_open,
    noise,
    pieces_of,
    serving,
    until,
)

SOON_S = 0.3
LONG_S = 60.0
HASTY = PeerLimits(read_s=SOON_S, close_s=SOON_S)
LIVELY = PeerLimits(ping_every_s=SOON_S, pong_s=SOON_S, close_s=SOON_S)
PATIENT = PeerLimits(close_s=SOON_S)
TEXT = noise(900_000, seed=1)
"""More, in UTF-8, than all buffers between the gateway and a peer that does not read."""


@pytest.fixture(autouse=True)
def _nothing_to_complain_of(caplog: pytest.LogCaptureFixture) -> Any:
    yield
    # `caplog.records` would be those of this moment.
    records = caplog.get_records("call")
    assert [r.getMessage() for r in records if r.levelno >= logging.ERROR] == []


async def flood(served: Served, session_id: str) -> None:
    """Have a turn of megabytes told in a session, and wait until it is stored."""
    served.model.autoreply(lambda _: pieces_of(TEXT))
    body = b'{"type": "chat", "message": "hi"}'
    async with Peer(served.url, room=1 << 20) as asker:
        await asker.open(session_id=session_id)
        await asker.say(1, body)
        while (await asker.frame())["type"] != "complete":
            pass
        await asker.say(CLOSE)


async def frames(peer: Peer) -> AsyncIterator[Json]:
    """Read JSON frames up to the close frame, which is the last one."""
    while True:
        frame = await peer.frame()
        yield frame
        if frame["type"] == "close":
            return


async def told(peer: Peer, *, until: str) -> tuple[str, str, Json]:
    """Read up to a frame of some type; return the text told, the last id, and that frame."""
    text, cursor = "", ""
    async for frame in frames(peer):
        text += frame.get("content", "")
        cursor = frame.get("id", cursor)
        if frame["type"] == until:
            return text, cursor, frame
    raise AssertionError(f"closed before {until}")


async def stuck_socket(served: Served, peer: Peer, **query: str) -> str:
    """Open a WebSocket and leave it full; return its session."""
    session_id: str = (await peer.open(**query))["session_id"]
    await fill(served, session_id)
    return session_id


async def stuck_events(served: Served, peer: Peer) -> str:
    """Open an event stream and leave it full; return its session."""
    async with Peer(served.url) as first:
        session_id: str = (await first.open())["session_id"]
    await peer.request("GET", f"/api/sessions/{session_id}/events")
    await peer.until(b'"ready"')
    await fill(served, session_id)
    return session_id


async def fill(served: Served, session_id: str) -> None:
    """Leave whoever reads a session with more than it takes; it may be given up by then."""
    connected = len(served.connections)
    await flood(served, session_id)
    await until(
        lambda: any(map(is_full, served.connections)) or len(served.connections) < connected
    )


def is_full(connection: Any) -> bool:
    return bool(connection.peer.is_full)


# Who does not read


async def test_who_does_not_read_is_told_4000_and_goes_on_by_cursor_without_loss(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, HASTY) as served, Peer(served.url) as peer:
        session_id = await stuck_socket(served, peer)
        await until(lambda: any(each.close_sent for each in served.connections))
        text, cursor, last = await told(peer, until="close")
        assert last["code"] == 4000
        assert 0 < len(text) < len(TEXT)
        await peer.say(CLOSE, (4000).to_bytes(2, "big"))
        await served.all_gone()
        async with Peer(served.url) as back:
            assert (await back.open(session_id=session_id, after=cursor))["resumed"] is True
            rest, _, _ = await told(back, until="complete")
    assert text + rest == TEXT


async def test_who_never_reads_is_dropped(tmp_path: Path) -> None:
    async with serving(tmp_path, HASTY) as served, Peer(served.url) as peer:
        await stuck_socket(served, peer)
        await served.all_gone()


async def test_an_event_stream_that_is_not_read_is_cut_and_goes_on_by_its_last_event_id(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, HASTY) as served, Peer(served.url) as peer:
        session_id = await stuck_events(served, peer)
        await served.all_gone()
        *whole, _cut = (await peer.rest()).split(b"\n\n")
        cursor = whole[-1].rpartition(b"id: ")[2].partition(b"\n")[0]
        async with Peer(served.url) as back:
            path = f"/api/sessions/{session_id}/events"
            await back.request("GET", path, Last_Event_ID=cursor.decode())
            assert b'"resumed":true' in await back.until(b"\n\n")
            rest = await back.until(b'"complete"')
    assert 0 < cursor_offset(cursor) < len(TEXT)
    assert rest.count(b"data: ") > 1
    assert cursor_offset(rest.rpartition(b"id: 1.1.end")[0].rpartition(b"id: ")[2]) == len(TEXT)


def cursor_offset(cursor: bytes) -> int:
    return int(cursor.split(b"\n")[0].split(b".")[2])


async def test_who_reads_slowly_is_not_dropped(tmp_path: Path) -> None:
    limits = replace(HASTY, read_s=4 * SOON_S, send_buffer_bytes=SMALL)
    # A window that opens wide enough at a time: into a narrower one Linux only probes, seldom.
    async with serving(tmp_path, limits) as served, Peer(served.url, room=32_768) as peer:
        await stuck_socket(served, peer)
        began = time.monotonic()
        read = 0
        while time.monotonic() - began < 2 * limits.read_s:
            read += len(await peer.receive(8_192))
            await anyio.sleep(limits.read_s / 60)
        assert served.connections
        assert read < len(TEXT.encode()), "it read all of it, which proves nothing"


async def test_an_answer_that_is_not_fetched_is_cut(tmp_path: Path) -> None:
    async with serving(tmp_path, HASTY) as served:
        async with Peer(served.url) as first:
            session_id: str = (await first.open())["session_id"]
        await flood(served, session_id)
        async with Peer(served.url) as peer:
            await peer.request("GET", f"/api/sessions/{session_id}/messages", Connection="close")
            await served.all_gone()


@pytest.mark.parametrize("code", [b"", (1000).to_bytes(2, "big")])
async def test_who_closes_without_reading_is_dropped(code: bytes, tmp_path: Path) -> None:
    async with serving(tmp_path, PATIENT) as served, Peer(served.url) as peer:
        await stuck_socket(served, peer)
        await peer.say(CLOSE, code)
        await served.all_gone()


async def test_to_the_application_a_connection_that_is_being_closed_is_closed(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, PATIENT) as served, Peer(served.url) as peer:
        await peer.open()
        [connection] = served.connections
        connection._give_up_reader()
        with pytest.raises(ClientDisconnected):
            await connection.send({"type": "websocket.send", "text": "too late"})


async def test_a_socket_that_closes_just_as_its_session_is_deleted_is_no_error(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, PATIENT) as served, Peer(served.url) as peer:
        session_id = (await peer.open())["session_id"]
        [connection] = served.connections
        # In one step: the application is about to close what is being closed already.
        served.server.app.state.house.broker.drop(session_id)
        connection._give_up_reader()
        assert (await peer.frame())["code"] == 4000
        await served.all_gone()


async def test_a_flood_of_pings_that_nobody_reads_ends_the_connection(tmp_path: Path) -> None:
    limits = PeerLimits(read_s=LONG_S, max_unread_bytes=256 * 1024)
    ping = bytes((0x80 | PING, 0x80 | 125, 0, 0, 0, 0)) + bytes(125)
    most = sent = 0
    async with serving(tmp_path, limits) as served, Peer(served.url) as peer:
        await peer.open()
        [connection] = served.connections
        while served.connections and sent < 50_000_000:
            most = max(most, connection.transport.get_write_buffer_size())
            try:
                await peer.send(ping * 500)
            except OSError:
                break
            sent += 500 * len(ping)
        await served.all_gone()
    assert sent < 10_000_000
    # One read of the socket may come on top, answered whole.
    assert most < 1024 * 1024


async def test_a_message_in_many_small_pieces_is_one_message(tmp_path: Path) -> None:
    limits = replace(PATIENT, max_fragments=10_000, frames_per_s=1_000_000)
    async with serving(tmp_path, limits) as served, Peer(served.url) as peer:
        await peer.open()
        [connection] = served.connections
        # Text, its first piece; its continuations; the last of them (RFC 6455, section 5.4).
        await peer.send(fragment(b"", opcode=1))
        await peer.send(fragment(b"") * 9_995)
        for piece in (b"/", b"", b"ping"):
            await peer.send(fragment(piece))
        await peer.say(0)
        assert await peer.frame() == {"type": "pong"}
        assert connection.frames == []


async def test_a_message_in_more_pieces_than_that_is_closed_with_1009(tmp_path: Path) -> None:
    limits = replace(PATIENT, max_fragments=1_000)
    async with serving(tmp_path, limits) as served, Peer(served.url) as peer:
        await peer.open()
        await peer.send(fragment(b"", opcode=1) + fragment(b"") * 1_000)
        assert (await peer.frame())["code"] == 1009
        await peer.say(CLOSE)
        assert await peer.rest() == b""


# Who says too much


def fragment(piece: bytes, *, opcode: int = 0) -> bytes:
    return bytes((opcode, 0x80 | len(piece), 0, 0, 0, 0)) + piece


def sized(size: int) -> bytes:
    return b"/ping".ljust(size)


def whole(size: int) -> list[bytes]:
    return [b"\x81\xfe" + size.to_bytes(2, "big") + bytes(4) + sized(size)]


def in_fragments(size: int) -> list[bytes]:
    text = sized(size)
    last = text[100:]
    rest = b"\x80\xfe" + len(last).to_bytes(2, "big") + bytes(4) + last
    return [fragment(text[:50], opcode=1), fragment(text[50:100]), rest]


@pytest.mark.parametrize("written", [whole, in_fragments])
async def test_a_message_may_be_as_large_as_the_application_says(
    written: Callable[[int], list[bytes]], tmp_path: Path
) -> None:
    async with serving(tmp_path, PATIENT) as served, Peer(served.url) as peer:
        await peer.open()
        [connection] = served.connections
        for most in (4_096, 8_192, 1_000):
            connection.limit_message(most)
            await peer.send(b"".join(written(most)))
            assert await peer.frame() == {"type": "pong"}
        await peer.send(b"".join(written(1_001)))
        assert (await peer.frame())["code"] == 1009


async def test_a_limit_counts_for_the_message_that_is_coming_too(tmp_path: Path) -> None:
    async with serving(tmp_path, PATIENT) as served, Peer(served.url) as peer:
        await peer.open()
        [connection] = served.connections
        await peer.send(fragment(b"x" * 100, opcode=1))
        await until(lambda: bool(connection.frames))
        connection.limit_message(99)
        await peer.send(fragment(b""))
        assert (await peer.frame())["code"] == 1009


async def test_who_is_closed_for_an_error_is_heard_out(tmp_path: Path) -> None:
    limits = replace(PATIENT, close_s=LONG_S)
    async with serving(tmp_path, limits) as served, Peer(served.url) as peer:
        await peer.open()
        # After a message, for which reading pauses.
        await peer.send(b"\x81\x85\0\0\0\0/ping" + b"\xc1\x80\0\0\0\0")
        assert b"\x88" in await peer.rest()
        assert served.connections
        await peer.send(bytes(1_000_000))
        peer.close_sending()
        await served.all_gone()


async def test_who_has_too_many_frames_to_say_is_closed_with_4003(tmp_path: Path) -> None:
    limits = replace(PATIENT, flood_s=SOON_S)
    pong = bytes((0x80 | PONG, 0x80, 0, 0, 0, 0))
    async with serving(tmp_path, limits) as served, Peer(served.url) as peer:
        await peer.open()
        await peer.send(pong * 20_000)
        assert (await peer.frame())["code"] == 4003
        peer.close_sending()
        await served.all_gone()


async def test_many_frames_at_once_are_taken_in_turn_with_everybody_else(tmp_path: Path) -> None:
    limits = replace(PATIENT, frames_at_once=100, frames_per_s=10_000)
    async with serving(tmp_path, limits) as served, Peer(served.url) as peer:
        await peer.open()
        [connection] = served.connections
        await peer.send(bytes((0x80 | PING, 0x80, 0, 0, 0, 0)) * 3_000)
        await until(lambda: connection.peer.is_resting)
        assert not connection.transport.inner.is_reading()
        assert [await peer.raw_frame() for _ in range(3_000)] == [(PONG, b"")] * 3_000
        await peer.say(1, b"/ping")
        assert await peer.frame() == {"type": "pong"}
        await until(lambda: not connection.peer.is_resting)
        assert connection.transport.inner.is_reading()


async def test_who_speaks_before_it_is_answered_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = anyio.Event()

    async def slow(*_: object) -> None:
        await gone.wait()
        raise ClientDisconnected

    async with serving(tmp_path, PATIENT) as served, Peer(served.url) as peer:
        monkeypatch.setattr(ChatSocket, "send", slow)
        await peer.request(
            "GET",
            "/ws",
            Connection="Upgrade",
            Upgrade="websocket",
            Sec_WebSocket_Version="13",
            Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
        )
        await until(lambda: [type(each) for each in served.connections] == [ChatSocket])
        await peer.say(1, b"\xff")
        assert await peer.rest() == b""
        await served.all_gone()
        gone.set()
        await until(lambda: not served.server.server_state.tasks)


# Who is no longer there


@pytest.mark.parametrize("full", [False, True])
async def test_a_peer_behind_a_cut_cable_is_dropped_even_if_its_socket_is_full(
    full: bool, tmp_path: Path
) -> None:
    limits = PeerLimits(ping_every_s=SOON_S, pong_s=SOON_S, read_s=2 * SOON_S, close_s=SOON_S)
    async with (
        serving(tmp_path, limits) as served,
        half_open(served.url) as (url, cut),
        Peer(url) as peer,
    ):
        session_id = (await peer.open())["session_id"]
        cut()
        if full:
            await flood(served, session_id)
        await served.all_gone()


async def test_a_peer_that_reads_but_answers_no_ping_is_closed_with_1011(tmp_path: Path) -> None:
    async with serving(tmp_path, LIVELY) as served, Peer(served.url) as peer:
        await peer.open()
        opcode, _ = await peer.raw_frame()
        assert opcode == PING
        opcode, payload = await peer.raw_frame()
        assert (opcode, payload[:2]) == (CLOSE, (1011).to_bytes(2, "big"))
        assert await peer.rest() == b""


async def test_a_ping_behind_text_that_is_not_read_yet_is_not_missed(tmp_path: Path) -> None:
    limits = PeerLimits(
        ping_every_s=SOON_S, pong_s=2 * SOON_S, read_s=LONG_S, send_buffer_bytes=SMALL
    )
    async with serving(tmp_path, limits) as served, Peer(served.url) as peer:
        await stuck_socket(served, peer)
        await anyio.sleep(4 * SOON_S)  # longer than a ping and its answer may take
        text, _, _ = await told(peer, until="complete")
        assert text == TEXT


async def test_a_ping_goes_with_a_heartbeat_in_one_write(tmp_path: Path) -> None:
    limits = replace(PATIENT, ping_every_s=1.5 * SOON_S)
    async with (
        serving(tmp_path, limits, heartbeat_s=SOON_S) as served,
        Peer(served.url) as peer,
    ):
        await peer.open()
        heartbeat = b'\x81\x0f{"type":"ping"}'
        written = await peer.receive()
        assert written.startswith(heartbeat)
        assert written[len(heartbeat) :][:2] == bytes((0x80 | PING, 4))
        assert len(written) == len(heartbeat) + 6
        # Not answered yet: the next heartbeat goes alone.
        assert await peer.receive() == heartbeat


# Who asks for nothing


async def test_an_idle_connection_keeps_neither_its_head_nor_a_dictionary(tmp_path: Path) -> None:
    async with serving(tmp_path, PATIENT) as served, Peer(served.url) as peer:
        await peer.open()
        [connection] = served.connections
        assert vars(connection) == {}, "what is not in its slots weighs twice"
        assert connection.scope["headers"] == []
        assert (connection.request, connection.response) == (None, None)


async def test_a_connection_that_has_left_is_no_work_for_the_garbage_collector(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, PATIENT) as served:
        gc.disable()
        try:
            async with Peer(served.url) as peer:
                await peer.open()
                [left] = map(ref, served.connections)
            await until(lambda: left() is None)
        finally:
            gc.enable()


# Shutdown


async def test_nobody_keeps_the_gateway_from_stopping(tmp_path: Path) -> None:
    limits = PeerLimits(read_s=LONG_S, close_s=SOON_S)
    async with (
        serving(tmp_path, limits) as served,
        Peer(served.url) as ws,
        Peer(served.url) as sse,
        Peer(served.url) as mute,
    ):
        await stuck_socket(served, ws)
        await stuck_events(served, sse)
        await mute.send(
            b"POST /api/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
        )
        began = time.monotonic()
        served.server.stop()
        await served.all_gone()
        assert time.monotonic() - began < 4.0


async def test_who_has_closed_and_does_not_read_does_not_break_the_stop(tmp_path: Path) -> None:
    limits = PeerLimits(read_s=LONG_S, close_s=LONG_S)
    async with serving(tmp_path, limits) as served, Peer(served.url) as peer:
        await stuck_socket(served, peer)
        await peer.say(CLOSE, (1000).to_bytes(2, "big"))
        await until(lambda: served.connections[0].transport.is_closing())
        [connection] = served.connections
        connection.shutdown()
        connection.transport.abort()


# What this leans on

ADDED = ("peer", "ping_along", "limit_message")


def overridden(ours: type, theirs: type) -> list[tuple[type, str]]:
    names = [name for name, value in vars(ours).items() if isfunction(value)]
    return [(theirs, name) for name in names if not name.startswith("_") and name not in ADDED]


@pytest.mark.parametrize(
    ("theirs", "name"),
    [
        *overridden(ChatHttp, HttpToolsProtocol),
        *overridden(ChatSocket, WebSocketsSansIOProtocol),
    ],
)
def test_uvicorn_still_has_what_is_overridden(theirs: type, name: str) -> None:
    assert callable(getattr(theirs, name))


@pytest.mark.parametrize(
    ("protocol", "names"),
    [
        (ChatHttp, "loop transport flow cycle pipeline parser headers"),
        (
            ChatSocket,
            "loop transport conn queue writable frames close_sent close_timer close_timeout"
            " handshake_initiated handshake_complete pong_timer pending_ping_payload"
            " ping_timer ping_sent_at",
        ),
    ],
)
async def test_uvicorn_still_has_the_state_that_is_looked_at(protocol: Any, names: str) -> None:
    config = uvicorn.Config(lambda: None, log_config=None)
    config.load()
    base = protocol.__mro__[1](
        config=config, server_state=uvicorn.server.ServerState(), app_state={}
    )
    assert [name for name in names.split() if not hasattr(base, name)] == []


@pytest.mark.parametrize(("attribute", "ours"), [("queue", Mailbox), ("writable", Gate)])
def test_uvicorn_asks_no_more_of_what_it_waits_by_than_ours_can(attribute: str, ours: type) -> None:
    asked = re.findall(rf"self\.{attribute}\.(\w+)", getsource(WebSocketsSansIOProtocol))
    assert asked
    assert [name for name in asked if not callable(getattr(ours, name, None))] == []


def test_websockets_still_parses_with_a_generator() -> None:
    assert isgenerator(ServerProtocol().parser)


def test_websockets_still_has_the_state_that_is_looked_at() -> None:
    connection = ServerProtocol(max_size=7)
    assert connection.max_message_size == 7
    assert connection.events == []


async def test_the_protocols_are_those_that_serve(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, PATIENT) as served,
        Peer(served.url) as http,
        Peer(served.url) as ws,
    ):
        await ws.open()
        await http.send(b"GET")
        await until(lambda: len(served.connections) == 2)
        assert {type(each) for each in served.connections} == {ChatHttp, ChatSocket}
        assert all(type(each.transport) is BoundedTransport for each in served.connections)
        assert all(type(each.peer.inner) is not BoundedTransport for each in served.connections)
