"""Connections that end: uvicorn's protocols, mended where they would wait for ever.

uvicorn closes a connection with `transport.close()`, which first waits until the peer has read
all that was written, and it sets no limit to the head of a request. A peer that does not read, or
does not speak, is then never dropped: not by the ping timeout, and not at shutdown, which it keeps
from ending. What is overridden here is private to uvicorn; `tests/gateway/test_sockets.py` pins it.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState

from protocol.errors import CloseCode

HEAD_WITHIN_S = 10.0
"""How long a peer may take to send the head of a request."""

READ_WITHIN_S = 60.0
"""How long a peer may leave its socket full before it is dropped; it can resume by cursor."""

CLOSED_WITHIN_S = 2.0
"""How long a peer may take to read what is left once its connection is being closed."""

MAX_UNREAD_BYTES = 1024 * 1024
"""So much written and not read, and the peer is dropped: it floods us with pings."""

SEND_BUFFER_BYTES = 128 * 1024
"""What the kernel keeps of a peer that does not read; it doubles this."""

UNACKNOWLEDGED_MS = 40_000
"""After so long without a word from the peer's kernel the connection is lost (RFC 5482)."""


class ChatHttp(HttpToolsProtocol):
    """One HTTP connection, which may become a WebSocket."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_limit = _Limit(self.loop, HEAD_WITHIN_S)
        self._read_limit = _Limit(self.loop, READ_WITHIN_S)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request."""
        super().connection_made(transport)
        self._head_limit.start(transport.abort)

    def on_message_begin(self) -> None:
        """Expect the rest of the next request's head."""
        super().on_message_begin()
        self._head_limit.start(self.transport.abort)

    def on_headers_complete(self) -> None:
        """Be content with the head."""
        self._head_limit.lift()
        super().on_headers_complete()

    def pause_writing(self) -> None:
        """Give a peer that does not read some time."""
        super().pause_writing()
        self._read_limit.start(self.transport.abort)

    def resume_writing(self) -> None:
        """Go on with a peer that reads again."""
        super().resume_writing()
        self._read_limit.lift()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing any more."""
        super().connection_lost(exc)
        self._head_limit.lift()
        self._read_limit.lift()

    def shutdown(self) -> None:
        """Close the connection as soon as its response is complete."""
        super().shutdown()
        if self.transport.is_closing():
            self.loop.call_later(CLOSED_WITHIN_S, self.transport.abort)


class ChatSocket(WebSocketsSansIOProtocol):
    """One WebSocket connection."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._read_limit = _Limit(self.loop, READ_WITHIN_S)

    def pause_writing(self) -> None:
        """Give a peer that does not read some time."""
        super().pause_writing()
        self._read_limit.start(self._give_up_reader)

    def resume_writing(self) -> None:
        """Go on with a peer that reads again."""
        super().resume_writing()
        self._read_limit.lift()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing any more."""
        super().connection_lost(exc)
        self._read_limit.lift()

    def handle_ping(self) -> None:
        """Answer a ping, unless the peer has let too many answers pile up."""
        super().handle_ping()
        if self.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self.transport.abort()

    def keepalive_timeout(self) -> None:
        """Drop a peer that did not answer a ping."""
        super().keepalive_timeout()
        self._drop()

    def shutdown(self) -> None:
        """Close the connection with 1012, whether or not the peer reads it."""
        super().shutdown()
        self._drop()

    def _give_up_reader(self) -> None:
        try:
            self.conn.send_close(CloseCode.TOO_SLOW, "could not keep up")
        except InvalidState:  # it is being closed already
            pass
        else:
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
        self._drop()

    def _drop(self) -> None:
        """Close the connection; abort it if the peer does not let it be closed soon."""
        self.transport.close()
        self.loop.call_later(CLOSED_WITHIN_S, self.transport.abort)


class _Limit:
    """A limit of time, which does something when it is reached."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None

    def start(self, reached: Callable[[], None]) -> None:
        """Begin to count, anew if it counts already."""
        self.lift()
        self._timer = self._loop.call_later(self._seconds, reached)

    def lift(self) -> None:
        """Count no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def listening_socket(host: str, port: int) -> socket.socket:
    """Bind a socket whose connections end when their peer is gone; raises OSError."""
    [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    listener = socket.socket(family, kind, protocol)
    try:
        for level, option, value in _options():
            listener.setsockopt(level, option, value)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def _options() -> list[tuple[int, int, int]]:
    """What connections inherit from the socket that accepts them."""
    options = [
        (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1),
        (socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES),
    ]
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux alone has it
        options.append((socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS))
    return options
