"""HTTP connections that end: uvicorn's protocol, mended where it would wait or take in for ever.

uvicorn sets no limit to the head of a request, nor to how long a peer takes to send it, and closes
a connection with `transport.close()`, which first waits until the peer has read all that was
written.
What is overridden here is private to uvicorn; `tests/gateway/test_sockets.py` pins it.
"""

import asyncio
import logging
from http import HTTPStatus
from typing import Any, NoReturn, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.limits.lobby import Lobby, Stay
from gateway.listening import PeerLimits, is_spare
from gateway.transports import BoundedTransport, Limit

log = logging.getLogger(__name__)

_NO_MORE = b"content-length: 0\r\nconnection: close\r\n\r\n"
_DEFAULT = PeerLimits()


class ChatHttp(HttpToolsProtocol):
    """One HTTP connection, which may become a WebSocket."""

    def __init__(
        self,
        *arguments: Any,
        limits: PeerLimits = _DEFAULT,
        lobby: Lobby | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._limits = limits
        self._lobby = lobby
        self._stay: Stay | None = None
        self._request_limit = Limit(self.loop)
        self._refusal = HTTPStatus.BAD_REQUEST
        self._in_head = self._gets_on = False
        # Since the head began, or the last piece of a body ended.
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request, unless its peer has enough connections, or the process enough files."""
        self.peer = BoundedTransport(
            transport, self.loop, read_s=self._limits.read_s, close_s=self._limits.read_s
        )
        super().connection_made(cast(asyncio.Transport, self.peer))
        if is_spare(transport.get_extra_info("socket").fileno(), self._limits):
            log.warning("a connection was dropped: too many files are open")
            self.transport.abort()
        elif not self._has_room():
            log.warning("a connection was dropped: its address has too many")
            self.transport.abort()
        else:
            self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Take the next bytes, as long as a head they belong to is not too large."""
        if not self._request_limit.counts and self._is_idle():
            # Line breaks before a request are none, but they end uvicorn's keep-alive timeout.
            self._expect_head()
        while data and self.parser is not None and not self.transport.is_closing():
            if (room := self._limits.max_head_bytes - self._head_bytes) == 0:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            else:
                self._gets_on = False
                super().data_received(data[:room])
                self._head_bytes = 0 if self._gets_on else self._head_bytes + len(data[:room])
                data = data[room:]

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over, and leave nothing behind."""
        super().handle_websocket_upgrade()
        self._leave_lobby()
        # It knows us as we know it: nobody but the garbage collector could free the two.
        self.parser = None  # type: ignore[assignment]

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be understood, and what the parser was kept from taking in."""
        self._refuse(self._refusal)

    def on_message_begin(self) -> None:
        """Expect the rest of the next request's head."""
        if len(self.pipeline) >= self._limits.max_pipelined:
            self._stop_parsing(HTTPStatus.TOO_MANY_REQUESTS)
        super().on_message_begin()
        self._expect_head()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the path and query."""
        super().on_url(url)
        if len(self.url) > self._limits.max_target_bytes:
            self._stop_parsing(HTTPStatus.REQUEST_URI_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a line of the head, or of what follows a body."""
        super().on_header(name, value)
        if len(self.headers) > self._limits.max_header_lines:
            self._stop_parsing(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_headers_complete(self) -> None:
        """Be content with the head; expect the body."""
        super().on_headers_complete()
        self._in_head, self._gets_on = False, True
        self._request_limit.start(self._limits.body_s, self._give_up_request)
        # Whoever is answered before all is said has to be heard out, or it may lose the answer.
        self.peer.linger(self._limits.close_s)

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._gets_on = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Be content with the request."""
        self._gets_on = True
        self._request_limit.lift()
        self.peer.linger(0.0)
        super().on_message_complete()

    def eof_received(self) -> None:
        """Close the connection when the peer says that it will say no more."""
        self.peer.close_both()

    def pause_writing(self) -> None:
        """Give a peer that does not read some time."""
        super().pause_writing()
        self.peer.expect_reading(self.transport.abort)

    def resume_writing(self) -> None:
        """Go on with a peer that reads again."""
        super().resume_writing()
        self.peer.reads()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing any more."""
        super().connection_lost(exc)
        self._leave_lobby()
        self._request_limit.lift()
        self.peer.lost()

    def shutdown(self) -> None:
        """Close the connection as soon as its response is complete."""
        super().shutdown()
        self.loop.call_later(self._limits.close_s, self._leave)

    def _has_room(self) -> bool:
        if self._lobby is None:
            return True
        self._stay = self._lobby.enter(self.client[0] if self.client else None)
        return self._stay is not None

    def _leave_lobby(self) -> None:
        if self._stay is not None:
            self._stay.end()

    def _leave(self) -> None:
        # Whoever neither reads nor says all that was announced is not waited for any longer.
        if self.peer.is_full or self._request_limit.counts or self.transport.is_closing():
            self.transport.abort()

    def _expect_head(self) -> None:
        self._in_head, self._head_bytes = True, 0
        self._request_limit.start(self._limits.head_s, self._give_up_request)

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _give_up_request(self) -> None:
        if self.flow.read_paused or self.pipeline:  # it is we who are slow: it asked before that
            self._request_limit.start(self._limits.head_s, self._give_up_request)
        else:
            self.transport.abort()

    def _stop_parsing(self, refusal: HTTPStatus) -> NoReturn:
        # To the parser a callback that fails is an invalid request, and uvicorn answers that.
        self._refusal = refusal
        raise ValueError(refusal.phrase)

    def _refuse(self, status: HTTPStatus) -> None:
        if self._in_head and self._is_idle():
            line = f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            self.transport.write(line.encode() + _NO_MORE)
        self.peer.linger(self._limits.close_s)
        self.transport.close()
