"""WebSockets that end: uvicorn's protocol, mended where it would wait or take in for ever.

uvicorn closes a connection with `transport.close()`, which first waits until the peer has read
all that was written. A peer that does not read is then never dropped: not by the ping timeout, and
not at shutdown, which it keeps from ending. One that speaks without end is taken in whole, and
nobody else gets a turn meanwhile.
What is overridden here is private to uvicorn; `tests/gateway/test_sockets.py` pins it.
"""

import asyncio
from contextlib import suppress
from http import HTTPStatus
from typing import Any, cast
from weakref import ref

from starlette.types import Scope
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.frames import Frame
from websockets.http11 import Request

from gateway.listening import PeerLimits
from gateway.transports import BoundedTransport, Pace
from gateway.waiting import Gate, Mailbox
from protocol.errors import CloseCode

_DEFAULT = PeerLimits()
_EXTENSION = "midm.socket"

_BITE_BYTES = 8 * 1024
"""What is parsed at once: 1,400 of the smallest frames, which take 10 ms; a read may be 256 KB."""


class ChatSocket(WebSocketsSansIOProtocol):
    """One WebSocket connection.

    Whole messages may be written to its `peer` directly while that takes more. What `send` does
    beside it, waiting and a state machine that writes the same bytes, costs as much as all else
    that happens to a token.
    """

    # More than 30 attributes do not fit into what instances share (PEP 412): each would have a
    # dictionary of its own, of 1.6 KB.
    __slots__ = (
        *("_limits", "_message", "_fragments", "_unread", "_frames", "_pace", "peer", "_was_full"),
        *("config", "app", "loop", "logger", "root_path", "asgi_version", "app_state"),
        *("connections", "tasks", "default_headers", "transport", "server", "client", "scheme"),
        *("queue", "handshake_initiated", "handshake_complete", "close_sent", "disconnected"),
        *("close_timer", "close_timeout", "initial_response", "conn", "read_paused", "writable"),
        *("ping_interval", "ping_timeout", "ping_timer", "pong_timer", "pending_ping_payload"),
        *("ping_sent_at", "last_ping_rtt", "frames", "curr_msg_data_type"),
        *("request", "response", "scope"),
    )

    def __init__(self, *arguments: Any, limits: PeerLimits = _DEFAULT, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._limits = limits
        self._was_full = False
        self._unread = b""
        self._frames = self._fragments = 0
        self._pace = Pace(limits)
        # Not of the types that uvicorn names, but with all it calls of them; a test pins that.
        self.queue: Mailbox[Any] = Mailbox()  # type: ignore[assignment]
        self.writable: Gate = Gate()  # type: ignore[assignment]
        self.close_timeout = limits.close_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection over from HTTP."""
        self.peer = BoundedTransport(
            cast(asyncio.Transport, getattr(transport, "inner", transport)),
            self.loop,
            read_s=self._limits.read_s,
            close_s=self._limits.close_s,
        )
        super().connection_made(cast(asyncio.Transport, self.peer))

    def handle_connect(self, event: Request) -> None:
        """Let the application find this connection beside the callables of ASGI."""
        super().handle_connect(event)
        if self.response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            # Weakly, for it is we who keep the scope.
            cast("dict[str, Any]", self.scope["extensions"])[_EXTENSION] = ref(self)

    def limit_message(self, max_bytes: int) -> None:
        """Accept no larger message from now on, whole or in fragments: it is closed with 1009."""
        self.conn.max_message_size = max_bytes

    def data_received(self, data: bytes) -> None:
        """Take the next bytes; first of all a whole head, with which HTTP was content."""
        if not self.handshake_initiated:
            super().data_received(data)
            if not self.handshake_initiated:
                # websockets is not content; it has put an answer by, which uvicorn never looks at.
                self.transport.write(b"".join(self.conn.data_to_send()))
                self.transport.close()
        elif self.handshake_complete:
            self._unread += data
            if not self.peer.is_resting:
                self._take_frames()
        else:
            # It may not speak before it is answered (RFC 6455, section 4.1).
            self.transport.abort()

    def handle_events(self) -> None:
        """Count the frames that have come, and deal with them."""
        self._frames += len(self.conn.events)
        super().handle_events()

    def eof_received(self) -> None:
        """Close the connection when the peer says that it will say no more."""
        self.peer.close_both()

    def pause_writing(self) -> None:
        """Give a peer that does not read some time."""
        super().pause_writing()
        self._was_full = True
        self.peer.expect_reading(self._give_up_reader)

    def resume_writing(self) -> None:
        """Go on with a peer that reads again."""
        super().resume_writing()
        self.peer.reads()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing any more."""
        super().connection_lost(exc)
        self.peer.lost()
        # It is a generator that keeps what keeps it, and so would wait for the garbage collector.
        self.conn.parser.close()

    def handle_cont(self, event: Frame) -> None:
        """Keep a message that comes in pieces in one: a piece weighs more than the byte in it."""
        if self.close_sent:
            return
        if len(self.frames) == 1:
            self._message, self._fragments = bytearray(self.frames.pop()), 1
        self._message += event.data
        self._fragments += 1
        if self._fragments > self._limits.max_fragments:
            self._fail(CloseCode.TOO_LARGE, "too many fragments")
        elif event.fin:
            self.frames = [bytes(self._message)]
            self.send_receive_event_to_app()

    def send_receive_event_to_app(self) -> None:
        """Hand a message on, unless it is no text and the peer has closed in the same breath."""
        with suppress(InvalidState):
            super().send_receive_event_to_app()

    def handle_parser_exception(self) -> None:
        """Tell the peer why it is closed, even if it goes on sending."""
        self.peer.linger(self._limits.close_s)
        super().handle_parser_exception()

    def handle_ping(self) -> None:
        """Answer a ping, unless the peer has let too many answers pile up."""
        super().handle_ping()
        if self.transport.get_write_buffer_size() > self._limits.max_unread_bytes:
            self.transport.abort()

    def start_keepalive(self) -> None:
        """Begin to ask, now and then, whether the peer is there."""
        self.ping_sent_at = self.loop.time()
        super().start_keepalive()

    def ping_along(self) -> None:
        """Ping with what is just being written, where a ping would be due before long.

        Two writes, and two wakes of the peer, are what an idle connection costs.
        """
        waited_s = self.loop.time() - self.ping_sent_at
        if self.ping_timer is not None and waited_s > self._limits.ping_every_s / 2:
            self.ping_timer.cancel()
            self.send_keepalive_ping()

    def send_keepalive_ping(self) -> None:
        """Ask whether the peer is there."""
        self._was_full = self.peer.is_full
        super().send_keepalive_ping()

    def keepalive_timeout(self) -> None:
        """Drop a peer that did not answer a ping, if it should have read it by now."""
        if not self._was_full:
            super().keepalive_timeout()
            return
        # The ping stands behind what the peer was to read; how long it may take is `read_s`.
        self.pong_timer = self.pending_ping_payload = None
        self.schedule_ping()

    def shutdown(self) -> None:
        """Close the connection with 1012, whether or not the peer reads it."""
        try:
            super().shutdown()
        except InvalidState:  # the peer has closed, and does not read our answer to that
            self.transport.close()

    async def send(self, message: Any) -> None:
        """Send what the application says; to it, a connection that is being closed is closed."""
        await self.writable.wait()
        if self.close_sent:
            # uvicorn has closed it by itself, and would blame the application for not knowing.
            raise ClientDisconnected
        await super().send(message)
        if message["type"] == "websocket.accept":
            # The handshake is over; an idle connection would keep 3 KB of it.
            self.request = self.response = None  # type: ignore[assignment]
        elif message["type"] == "websocket.close":
            # After a close frame nothing more may be sent (RFC 6455, section 5.5.1).
            self.peer.finish()
        elif message["type"] == "websocket.http.response.body":
            # Refused by the application, which is an answer: uvicorn would log that there is none.
            self.handshake_complete = not message.get("more_body", False)

    def _take_frames(self) -> None:
        """Take what has come, or so much of it that everybody else has a turn too."""
        data, self._unread = self._unread, b""
        for at in range(0, len(data), _BITE_BYTES):
            if self.transport.is_closing():
                return
            self._frames, end = 0, at + _BITE_BYTES
            super().data_received(data[at:end])
            if (rest_s := self._pace.rest_s(self._frames, now=self.loop.time())) > 0:
                self._unread = data[end:]
                self._rest(rest_s)
                return

    def _rest(self, seconds: float) -> None:
        if self._pace.is_too_fast:
            self._fail(CloseCode.RATE_LIMITED, "too many frames")
        else:
            self.peer.rest(seconds, self._take_frames)

    def _fail(self, code: CloseCode, reason: str) -> None:
        self.conn.fail(code, reason)
        self.handle_parser_exception()

    def _give_up_reader(self) -> None:
        try:
            self.conn.send_close(CloseCode.TOO_SLOW, "could not keep up")
        except InvalidState:  # it is being closed already
            self.transport.close()
            return
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.peer.finish()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": CloseCode.TOO_SLOW})
        # Not closed at once: that would reset what a peer which reads at last is about to read.
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.close)


def socket_of(scope: Scope) -> ChatSocket | None:
    """Find the connection behind a WebSocket; None where it has no socket, as in some tests."""
    found: ref[ChatSocket] | None = scope.get("extensions", {}).get(_EXTENSION)
    return found() if found else None
