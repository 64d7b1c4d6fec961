"""An HTTP transport for long streams: one connection per request, and nothing shared."""

import asyncio
import functools
import ssl
import warnings
import weakref
from collections.abc import Callable
from typing import cast

import httptools
import httpx

from llm.template import Template
from llm.trace import TRACEPARENT

Hear = Callable[[bytes], bool]
"""Takes the next bytes of a body, at once and without waiting; tells whether it wants more."""

DEFAULT_MAX_BUFFERED_BYTES = 256 * 1024
DEFAULT_MAX_HEAD_BYTES = 64 * 1024
DEFAULT_MAX_HEADERS = 128


class DirectTransport(httpx.AsyncBaseTransport):
    """Opens a connection for each request and closes it with the response; there is no pool.

    The pool of httpx loses a slot for good when a request is cancelled at the wrong moment, its
    cost grows faster than the number of streams, and a kept connection may be closed by the
    server just as the next request is written to it. A connection costs a fraction of a
    millisecond; a reply takes seconds.

    The timeout extension `connect` (seconds) covers name resolution, TCP and TLS; every other
    limit of time is the caller's. Request bodies are held in memory whole. A response is read as
    it arrives: each step of its stream yields all bytes since the last one, and at most
    `max_buffered_bytes` and one read of the socket wait for a slow reader. Closing a response, or
    cancelling any wait, aborts the connection at once.

    The response extension `listen` reads the body in another way: `await listen(hear)` hands it to
    a `Hear` in the very step that receives it, all that one read of the socket brought at once, and
    returns when that wants no more or the body is over. It raises what `hear` raises. A reader that
    is a task would be woken for every token, which costs more than all else that is done with it.

    Raises the errors of httpx: ConnectError (refused, no such name, TLS), ConnectTimeout,
    WriteError, ReadError (reset), and RemoteProtocolError for what is not HTTP, ends early, or
    sends more than `max_head_bytes` of header, trailer or chunk framing without a byte of body.
    """

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        max_buffered_bytes: int = DEFAULT_MAX_BUFFERED_BYTES,
        max_head_bytes: int = DEFAULT_MAX_HEAD_BYTES,
        max_headers: int = DEFAULT_MAX_HEADERS,
    ) -> None:
        self._given_ssl_context = ssl_context
        self._max_buffered_bytes = max_buffered_bytes
        self._max_head_bytes = max_head_bytes
        self._max_headers = max_headers
        self._exchanges: weakref.WeakSet[_Exchange] = weakref.WeakSet()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request; return as soon as the head of the response is there."""
        return await self.send(Template(request), await request.aread())

    async def send(self, template: Template, body: bytes = b"") -> httpx.Response:
        """Send such a request with this body, at a fraction of what making one of httpx's costs.

        Returns as soon as the head of the response is there.
        """
        exchange = _Exchange(
            has_body=template.has_reply_body,
            max_buffered_bytes=self._max_buffered_bytes,
            max_head_bytes=self._max_head_bytes,
            max_headers=self._max_headers,
        )
        self._exchanges.add(exchange)
        await self._connect(exchange, template)
        exchange.send(template.message(body, traceparent=TRACEPARENT.get()))
        await exchange.head()
        return httpx.Response(
            exchange.status,
            headers=exchange.headers,
            stream=_Body(exchange),
            extensions={"listen": exchange.listen},
        )

    async def aclose(self) -> None:
        """Abort every connection; whoever waits for one gets a ReadError.

        A request that is still connecting ends when it is connected, or with its own limit.
        """
        for exchange in list(self._exchanges):
            exchange.abort()

    @functools.cached_property
    def _ssl_context(self) -> ssl.SSLContext:
        return self._given_ssl_context or ssl.create_default_context()

    async def _connect(self, exchange: "_Exchange", template: Template) -> None:
        ssl_context = self._ssl_context if template.encrypted else None
        try:
            async with asyncio.timeout(template.connect_s):
                await asyncio.get_running_loop().create_connection(
                    lambda: exchange, *template.address, ssl=ssl_context
                )
        except TimeoutError as exc:
            raise httpx.ConnectTimeout(f"no connection to {template.host} in time") from exc
        except (OSError, UnicodeError) as exc:  # UnicodeError: not a possible host name
            raise httpx.ConnectError(f"no connection to {template.host}: {exc}") from exc


class _Exchange(asyncio.Protocol):
    """One request and its response on one connection.

    What arrives is judged in callbacks, which never wait; `head()`, `read()` and `listen()` wait
    for the state those leave behind. One task at a time may wait.
    """

    __slots__ = (
        *("status", "headers", "_has_body", "_max_buffered_bytes", "_max_head_bytes"),
        *("_max_headers", "_parser", "_transport", "_waiter", "_error", "_parts"),
        *("_buffered_bytes", "_bytes_without_body", "_header_bytes", "_paused", "_writing"),
        *("_framed", "_head_complete", "_complete", "_hear", "_raised", "__weakref__"),
    )

    def __init__(
        self, *, has_body: bool, max_buffered_bytes: int, max_head_bytes: int, max_headers: int
    ) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._has_body = has_body
        self._max_buffered_bytes = max_buffered_bytes
        self._max_head_bytes = max_head_bytes
        self._max_headers = max_headers
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: httpx.TransportError | None = None
        self._parts: list[bytes] = []
        self._buffered_bytes = 0
        self._bytes_without_body = 0
        self._header_bytes = 0
        self._paused = False
        self._writing = False
        self._framed = False
        self._head_complete = False
        self._complete = False
        self._hear: Hear | None = None
        self._raised: Exception | None = None

    # What the caller asks

    def send(self, message: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(message)

    async def head(self) -> None:
        """Wait for the head of the response."""
        while not self._head_complete:
            await self._change()

    async def read(self) -> bytes:
        """Return what has arrived since the last read; wait for it if need be; b"" at the end."""
        while not self._parts and not self._complete:
            await self._change()
        data = self._take()
        self._resume()
        return data

    async def listen(self, hear: Hear) -> None:
        """Hand what has arrived, and what arrives from now on, to `hear`, until it is content."""
        self._hear = hear
        if self._parts:
            self._deliver(hear)
        self._resume()
        while self._hear is not None and not self._complete:
            await self._change()
        if self._raised is not None:
            raise self._raised

    def abort(self) -> None:
        """Close the connection at once, without sending what is left to send."""
        self._fail(httpx.ReadError("the connection was closed on this side"))

    def _take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        self._buffered_bytes = 0
        return data

    def _resume(self) -> None:
        if self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    async def _change(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        except asyncio.CancelledError:
            self.abort()
            raise
        finally:
            self._waiter = None

    # What the connection reports

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # With a mark of zero, writing is paused exactly while something is left to send.
        self._transport.set_write_buffer_limits(high=0)
        if self._error is not None:
            self._transport.abort()

    def pause_writing(self) -> None:
        self._writing = True

    def resume_writing(self) -> None:
        self._writing = False

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self._fail(httpx.RemoteProtocolError(f"not HTTP: {exc}"))
        if self._hear is None or not self._parts:
            self._arrived(len(data))
        else:
            self._deliver(self._hear)

    def _arrived(self, size: int) -> None:
        """Bound what is held until it is read, and what is no body."""
        if not self._parts:
            self._bytes_without_body += size
            if self._bytes_without_body > self._max_head_bytes:
                self._fail(httpx.RemoteProtocolError("too much without a byte of the body"))
        else:
            self._buffered_bytes += size
            if self._buffered_bytes > self._max_buffered_bytes and not self._paused:
                self._paused = True
                cast(asyncio.Transport, self._transport).pause_reading()
        self._wake()

    def _deliver(self, hear: Hear) -> None:
        try:
            if hear(self._parts.pop() if len(self._parts) == 1 else self._take()):
                return
        except Exception as raised:  # it belongs to whoever listens
            self._raised = raised
        self._hear = None
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            broken = httpx.WriteError if self._writing else httpx.ReadError
            self._fail(broken(f"the connection broke: {exc}"))
        elif self._head_complete and not self._framed:
            self._finish()
        else:
            self._fail(httpx.RemoteProtocolError("the connection ended before the response"))

    # What the parser reports

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value) + len(b": \r\n")
        if self._header_bytes > self._max_head_bytes or len(self.headers) >= self._max_headers:
            self._fail(httpx.RemoteProtocolError("too many or too long headers"))
        elif not self._head_complete:
            self.headers.append((name, value))
            self._framed |= _frames_body(name.lower(), value.lower())

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status < 200:  # informational: the response proper is yet to come
            self.headers.clear()
            return
        self._head_complete = self._error is None
        if not self._has_body:
            self._finish()

    def on_body(self, data: bytes) -> None:
        if self._error is None:
            self._parts.append(data)
            self._bytes_without_body = 0

    def on_message_complete(self) -> None:
        if self._head_complete:
            self._finish()

    # Outcomes: the first one stands, and ends the connection

    def _finish(self) -> None:
        self._complete = self._complete or self._error is None
        self._fail(httpx.ReadError("the response is over"))

    def _fail(self, error: httpx.TransportError) -> None:
        self._error = self._error or error
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _Body(httpx.AsyncByteStream):
    """What follows the head; an iterator, not a generator, so that nothing is left suspended."""

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange
        self._loop = asyncio.get_running_loop()
        self._closed = False

    def __aiter__(self) -> "_Body":
        return self

    async def __anext__(self) -> bytes:
        if data := await self._exchange.read():
            return data
        self._closed = True
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._closed = True
        self._exchange.abort()

    def __del__(self) -> None:
        if self._closed:
            return
        warnings.warn("a response was not closed", ResourceWarning, stacklevel=2, source=self)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._exchange.abort)


def _frames_body(name: bytes, value: bytes) -> bool:
    """Whether a header says where the body ends; without one it ends with the connection."""
    return name == b"content-length" or (
        name == b"transfer-encoding" and value.rstrip().endswith(b"chunked")
    )
