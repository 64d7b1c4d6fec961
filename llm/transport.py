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

Hear = Callable[[bytes], bool]
"""Takes the next bytes of a body, at once and without waiting; tells whether it wants more."""

DEFAULT_MAX_BUFFERED_BYTES = 256 * 1024
DEFAULT_MAX_HEAD_BYTES = 64 * 1024
DEFAULT_MAX_HEADERS = 128

_PORTS = {"http": 80, "https": 443}
_OWN_HEADERS = frozenset({b"connection", b"transfer-encoding"})


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
        await request.aread()
        message = _serialize(request)
        exchange = _Exchange(
            has_body=request.method != "HEAD",
            max_buffered_bytes=self._max_buffered_bytes,
            max_head_bytes=self._max_head_bytes,
            max_headers=self._max_headers,
        )
        self._exchanges.add(exchange)
        await self._connect(exchange, request)
        exchange.send(message)
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

    async def _connect(self, exchange: "_Exchange", request: httpx.Request) -> None:
        url = request.url
        if url.scheme not in _PORTS:
            raise httpx.UnsupportedProtocol(f"neither http nor https: {url.scheme!r}")
        ssl_context = self._ssl_context if url.scheme == "https" else None
        limit_s = request.extensions.get("timeout", {}).get("connect")
        try:
            async with asyncio.timeout(limit_s):
                await asyncio.get_running_loop().create_connection(
                    lambda: exchange,
                    url.raw_host.decode(),
                    url.port or _PORTS[url.scheme],
                    ssl=ssl_context,
                )
        except TimeoutError as exc:
            raise httpx.ConnectTimeout(f"no connection to {url.host} in time") from exc
        except (OSError, UnicodeError) as exc:  # UnicodeError: not a possible host name
            raise httpx.ConnectError(f"no connection to {url.host}: {exc}") from exc


class _Exchange(asyncio.Protocol):
    """One request and its response on one connection.

    What arrives is judged in callbacks, which never wait; `head()`, `read()` and `listen()` wait
    for the state those leave behind. One task at a time may wait.
    """

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
        self._deliver()
        self._resume()
        while self._hear is not None and not self._complete:
            await self._change()
        if self._raised is not None:
            raise self._raised

    def abort(self) -> None:
        """Close the connection at once, without sending what is left to send."""
        self._fail(httpx.ReadError("the connection was closed on this side"))

    def _take(self) -> bytes:
        parts, self._parts, self._buffered_bytes = self._parts, [], 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

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
        self._bytes_without_body += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self._fail(httpx.RemoteProtocolError(f"not HTTP: {exc}"))
        if self._bytes_without_body > self._max_head_bytes:
            self._fail(httpx.RemoteProtocolError("too much without a byte of the body"))
        if self._hear is None:
            self._wake()
        else:
            self._deliver()

    def _deliver(self) -> None:
        if self._hear is None or not self._parts:
            return
        try:
            wants_more = self._hear(self._take())
        except Exception as raised:  # it belongs to whoever listens
            self._raised, wants_more = raised, False
        if not wants_more:
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
        if self._error is not None:
            return
        self._bytes_without_body = 0
        self._parts.append(data)
        self._buffered_bytes += len(data)
        if self._buffered_bytes > self._max_buffered_bytes and not self._paused:
            self._paused = True
            cast(asyncio.Transport, self._transport).pause_reading()

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


def _serialize(request: httpx.Request) -> bytes:
    """Write the request; its body is at hand, so its length is known."""
    headers = [header for header in request.headers.raw if header[0].lower() not in _OWN_HEADERS]
    if "transfer-encoding" in request.headers:
        headers.append((b"Content-Length", b"%d" % len(request.content)))
    headers.append((b"Connection", b"close"))
    lines = [b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    lines += [b"%b: %b" % header for header in headers]
    if any(b"\r" in line or b"\n" in line for line in lines):
        raise httpx.LocalProtocolError("a line break in the head of the request")
    return b"\r\n".join([*lines, b"", request.content])


def _frames_body(name: bytes, value: bytes) -> bool:
    """Whether a header says where the body ends; without one it ends with the connection."""
    return name == b"content-length" or (
        name == b"transfer-encoding" and value.rstrip().endswith(b"chunked")
    )
