"""Clients that do not read, or do not end what they began: they keep nobody waiting."""

import asyncio
import json
import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.whole.audit import StrictLog
from tests.whole.clients import Log, WebSocketClient
from tests.whole.processes import gateway

SMALL = 4_096
LONG_QUESTION = "가" * 30_000 + " #sim pieces=3 interval_ms=0 first_token_ms=0#"
TURNS = 40
"""Of about 90 KB each: more than the kernel holds for a peer that does not read."""


def _deaf_socket(url: str) -> socket.socket:
    """A connection with so little room that it is full almost at once."""
    target = urlsplit(url)
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
    deaf.connect((target.hostname, target.port))
    return deaf


@pytest.mark.parametrize("reads_at_last", [True, False])
async def test_who_never_reads_does_not_stop_the_others(
    reads_at_last: bool, tmp_path: Path
) -> None:
    async with gateway(tmp_path) as program:
        url = f"{program.url.replace('http', 'ws', 1)}/ws"
        async with WebSocketClient(url, log=StrictLog()) as tab:
            await tab.ask("먼저 #sim pieces=1#")
            # `max_queue` 1: the client's library stops reading when its program does.
            deaf = connect(
                f"{url}?session_id={tab.session_id}&after=0.0.end",
                sock=_deaf_socket(program.url),
                proxy=None,
                max_queue=1,
                ping_interval=None,
            )
            async with asyncio.timeout(40), deaf as socket:
                for _ in range(TURNS):
                    await tab.ask(LONG_QUESTION)
                if reads_at_last:
                    assert await _read(socket, upto=tab.log.cursor) == _texts(tab.log)
                assert await program.stop() == 0
                socket.transport.abort()
    assert program.complaints == []


async def _read(socket: ClientConnection, *, upto: str | None) -> list[str]:
    log = StrictLog()
    log.cursor = "0.0.end"
    while log.cursor != upto:
        await log.fold(json.loads(await socket.recv()))
    return _texts(log)


def _texts(log: Log) -> list[str]:
    return [turn.text for turn in log.turns.values()]


async def test_who_leaves_in_the_middle_of_a_request_leaves_no_traceback(tmp_path: Path) -> None:
    async with gateway(tmp_path) as program:
        target = urlsplit(program.url)
        _, writer = await asyncio.open_connection(target.hostname, target.port)
        writer.write(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        async with httpx.AsyncClient(base_url=program.url, trust_env=False) as http:
            await http.get("/api/health")  # answered, so the request before it is being read
            writer.close()
            await writer.wait_closed()
            await http.get("/api/health")  # and by now its client is known to have left
        assert await program.stop() == 0
    assert program.complaints == []
