"""One connection per request, over real sockets, on both event loops."""

import os
import socket
import ssl
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.tls import TLSStream

from llm.transport import DirectTransport
from tests.llm.scripted import ScriptedModel, listening

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

# A key pair of nobody's, valid for 127.0.0.1 until the year 2126.
TLS_PAIR = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgpOoLELg0/CuYOB1R
j0dVvwSmedwGxVff8kPDBF3j/hehRANCAASSvwm7QOIe2T9xen1rk9ntuE6qRRIR
R3BAb84Ix6/p43p3+EKnMVAUWgtMocydIR90Z+UYvSc2gyptl4hM7LyU
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBmjCCAUGgAwIBAgIUNs7VB+uDF0EZWbwbk2UQetmgKtswCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJMTI3LjAuMC4xMCAXDTI2MTEyMzE1MDUzMloYDzIxMjYxMDMw
MTUwNTMyWjAUMRIwEAYDVQQDDAkxMjcuMC4wLjEwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAASSvwm7QOIe2T9xen1rk9ntuE6qRRIRR3BAb84Ix6/p43p3+EKnMVAU
WgtMocydIR90Z+UYvSc2gyptl4hM7LyUo28wbTAdBgNVHQ4EFgQUx20IyicxYRLJ
vnIi/G7slfCpPLkwHwYDVR0jBBgwFoAUx20IyicxYRLJvnIi/G7slfCpPLkwDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARhwR/AAABgglsb2NhbGhvc3QwCgYIKoZI
zj0EAwIDRwAwRAIgMaIAEB/e1WWUZXgm9TOLQyLMFvVEYMrq/yoCGEcoGJ8CIHpe
Xsd/C7CKCmpWqJ+P7fDBpbWVFgu2ZEJGq+ffXsXN
-----END CERTIFICATE-----
"""


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture(autouse=True)
async def _nothing_hangs() -> AsyncIterator[None]:
    with anyio.fail_after(20):
        yield


class Peer:
    """The server's end of one connection."""

    def __init__(self, stream: SocketStream) -> None:
        self.stream = stream
        self._reader = BufferedByteReceiveStream(stream)

    async def request(self) -> bytes:
        return await self._reader.receive_until(b"\r\n\r\n", 65536)

    async def closed(self) -> None:
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await self.stream.receive()


Serve = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def server(serve: Serve) -> AsyncIterator[str]:
    async def accept(stream: SocketStream) -> None:
        async with stream:
            await serve(Peer(stream))

    async with listening(accept) as port:
        yield f"http://127.0.0.1:{port}/"


def answering(*pieces: bytes) -> AbstractAsyncContextManager[str]:
    """A server that reads a request, writes these pieces and closes."""

    async def serve(peer: Peer) -> None:
        await peer.request()
        for piece in pieces:
            await peer.stream.send(piece)

    return server(serve)


async def get(url: str, *, transport: DirectTransport | None = None) -> httpx.Response:
    async with httpx.AsyncClient(transport=transport or DirectTransport()) as client:
        return await client.get(url)


# Responses that arrive whole


@pytest.mark.parametrize(
    ("wire", "body"),
    [
        (OK, b"ok"),
        (b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok"),
        (CHUNKED + b"2\r\nok\r\n0\r\n\r\n", b"ok"),
        (CHUNKED + b"1;x=y\r\no\r\n1\r\nk\r\n0\r\nTrailer: t\r\n\r\n", b"ok"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.0 200 OK\r\n\r\n", b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (OK + b"what follows the response is nobody's", b"ok"),
    ],
    ids=["length", "1xx", "chunked", "trailer", "until close", "empty", "204", "too much"],
)
@pytest.mark.parametrize("cut", ["whole", "bytes"])
async def test_a_response_is_the_same_wherever_it_is_cut(
    wire: bytes, body: bytes, cut: str
) -> None:
    pieces = [wire] if cut == "whole" else [wire[i : i + 1] for i in range(len(wire))]
    async with answering(*pieces) as url:
        response = await get(url)
        assert response.content == body
        assert "link" not in response.headers


async def test_the_head_of_the_request_says_that_the_connection_closes() -> None:
    async def serve(peer: Peer) -> None:
        heads.append(await peer.request())
        await peer.stream.send(OK)

    heads: list[bytes] = []
    async with server(serve) as url:
        await get(url + "a%20b?c=d")
    assert heads[0].startswith(b"GET /a%20b?c=d HTTP/1.1\r\nHost: 127.0.0.1:")
    assert heads[0].lower().count(b"connection:") == 1
    assert heads[0].endswith(b"\r\nConnection: close")


async def test_two_requests_are_two_connections() -> None:
    async with ScriptedModel() as model, httpx.AsyncClient(transport=DirectTransport()) as client:
        for _ in range(2):
            await client.get(f"{model.url}/health")
        assert model.connections == 2


async def test_a_body_that_comes_in_parts_is_sent_with_its_length() -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b'{"messages":'
        yield b"[]}"

    async with ScriptedModel() as model, httpx.AsyncClient(transport=DirectTransport()) as client:
        model.autoreply(lambda messages: ["well"])
        response = await client.post(f"{model.url}/chat", content=parts())
        assert response.json()["response"] == "well"


async def test_a_response_to_head_has_no_body() -> None:
    async with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n") as url:
        request = httpx.Request("HEAD", url)
        response = await DirectTransport().handle_async_request(request)
        assert await response.aread() == b""


async def test_a_line_break_in_a_header_is_not_sent() -> None:
    request = httpx.Request("GET", "http://127.0.0.1:1/", headers={"X": "a\r\nHost: evil"})
    with pytest.raises(httpx.LocalProtocolError):
        await DirectTransport().handle_async_request(request)


async def test_neither_http_nor_https() -> None:
    with pytest.raises(httpx.UnsupportedProtocol):
        await get("ftp://127.0.0.1/")


# Connections that fail


async def test_nobody_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(httpx.ConnectError):
            await get(f"http://127.0.0.1:{bound.getsockname()[1]}")


@pytest.mark.parametrize("host", ["name.invalid", "a" * 64 + ".invalid", "a..b"])
async def test_no_such_name(host: str) -> None:
    with pytest.raises(httpx.ConnectError):
        await get(f"http://{host}/")


@pytest.fixture
def full_port() -> Iterator[int]:
    """A port whose queue of connections is full: the next one waits for ever."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        queued = []
        for _ in range(8):
            waiting = socket.socket()
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
            queued.append(waiting)
        yield port
        for waiting in queued:
            waiting.close()


async def test_connecting_has_a_limit(full_port: int) -> None:
    timeout = {"timeout": {"connect": 0.05}}
    request = httpx.Request("GET", f"http://127.0.0.1:{full_port}/", extensions=timeout)
    with pytest.raises(httpx.ConnectTimeout):
        await DirectTransport().handle_async_request(request)


async def test_the_limit_of_connecting_covers_tls() -> None:
    async def serve(peer: Peer) -> None:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                await peer.stream.receive()  # and never shake hands
        seen.set()

    seen = anyio.Event()
    async with server(serve) as url:
        extensions = {"timeout": {"connect": 0.05}}
        request = httpx.Request("GET", url.replace("http", "https"), extensions=extensions)
        with pytest.raises(httpx.ConnectTimeout):
            await DirectTransport().handle_async_request(request)
        await seen.wait()


async def test_a_certificate_nobody_vouches_for(tls_pair: Path) -> None:
    async with tls_server(tls_pair) as url:
        with pytest.raises(httpx.ConnectError):
            await get(url)


async def test_a_certificate_that_is_trusted(tls_pair: Path) -> None:
    trusting = ssl.create_default_context(cafile=str(tls_pair))
    async with tls_server(tls_pair) as url:
        response = await get(url, transport=DirectTransport(ssl_context=trusting))
        assert response.content == b"ok"


@pytest.fixture
def tls_pair(tmp_path: Path) -> Path:
    path = tmp_path / "pair.pem"
    path.write_text(TLS_PAIR)
    return path


def tls_server(pair: Path) -> AbstractAsyncContextManager[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair)

    async def serve(peer: Peer) -> None:
        try:
            stream = await TLSStream.wrap(peer.stream, server_side=True, ssl_context=context)
            await stream.receive()
            await stream.send(OK)
        except (ssl.SSLError, anyio.EndOfStream, anyio.BrokenResourceError):
            return  # the client wants none of it

    @asynccontextmanager
    async def secure() -> AsyncIterator[str]:
        async with server(serve) as url:
            yield url.replace("http", "https")

    return secure()


# Responses that fail


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok",
        CHUNKED + b"5\r\nok",
        CHUNKED + b"2\r\nok\r\n",
        CHUNKED + b"zz\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
async def test_a_response_that_is_cut_or_is_none(wire: bytes) -> None:
    async with answering(wire) as url:
        with pytest.raises(httpx.RemoteProtocolError):
            await get(url)


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"Content-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 500_000,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 103 Hints\r\nX: y\r\n\r\n" * 20_000,
        CHUNKED + b"2\r\nok\r\n0\r\nX: " + b"y" * 500_000,
        CHUNKED + b"2\r\nok\r\n0\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        CHUNKED + b"2\r\nok\r\n2;" + b"y" * 500_000,
    ],
    ids=[
        "many",
        "many, whole",
        "long",
        "long, whole",
        "1xx for ever",
        "trailer",
        "trailer, whole",
        "extension",
    ],
)
async def test_what_surrounds_a_body_is_bounded(wire: bytes) -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(flood, peer.stream, wire)
                await peer.closed()
                scope.cancel()

    async def flood(stream: SocketStream, wire: bytes) -> None:
        try:
            await stream.send(wire)
        except anyio.BrokenResourceError:
            return
        await anyio.sleep_forever()

    async with server(serve) as url:
        with pytest.raises(httpx.RemoteProtocolError):
            await get(url)


async def test_half_of_the_headers_are_no_response() -> None:
    head = b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"Content-Length: 2\r\n\r\n"
    async with answering(head + b"ok") as url:
        with pytest.raises(httpx.RemoteProtocolError):
            await DirectTransport().handle_async_request(httpx.Request("GET", url))


async def test_a_reset_while_waiting() -> None:
    async with ScriptedModel() as model, anyio.create_task_group() as tasks:

        async def ask() -> None:
            with pytest.raises(httpx.ReadError):
                await get(f"{model.url}/chat")

        tasks.start_soon(ask)
        call = await model.call()
        await call.cut()


async def test_a_reset_while_writing() -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        linger = b"\1\0\0\0\0\0\0\0"
        raw: socket.socket = peer.stream.extra(anyio.abc.SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    async with server(serve) as url:
        request = httpx.Request("POST", url, content=b"x" * 20_000_000)
        with pytest.raises(httpx.WriteError):
            await DirectTransport().handle_async_request(request)


# Streams


@asynccontextmanager
async def streaming(model: ScriptedModel, **options: Any) -> AsyncIterator[Any]:
    """A started stream: the client's response, and the server's call."""
    transport = DirectTransport(**options)
    async with httpx.AsyncClient(transport=transport) as client:
        request = client.build_request("POST", f"{model.url}/chat/stream", json={})
        async with anyio.create_task_group() as tasks:
            calls: list[Any] = []

            async def begin() -> None:
                calls.append(await model.call())
                await calls[0].start()

            tasks.start_soon(begin)
            response = await client.send(request, stream=True)
        yield response, calls[0], transport
        await response.aclose()


async def test_bytes_are_handed_on_as_they_arrive_and_merge_while_nobody_reads() -> None:
    async with ScriptedModel() as model, streaming(model) as (response, call, _):
        arriving = response.stream.__aiter__()
        assert b"Stream started" in await anext(arriving)
        await call.raw(b"one")
        assert await anext(arriving) == b"one"
        await call.raw(b"two")
        await call.raw(b"three")
        await call.end()
        rest = b"".join([data async for data in arriving])
        assert rest == b"twothree"
        with pytest.raises(StopAsyncIteration):
            await anext(arriving)


async def test_a_slow_reader_holds_the_server_back_and_loses_nothing() -> None:
    mebibyte = b"x" * 2**20
    sent = 0

    async with ScriptedModel() as model, streaming(model) as (response, call, transport):

        async def pour() -> None:
            nonlocal sent
            for _ in range(64):
                await call.raw(mebibyte)
                sent += 1
            await call.end()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pour)
            await anyio.wait_all_tasks_blocked()
            before = 0
            while before < sent:  # until the sockets in between are full as well
                before = sent
                for _ in range(1000):
                    await anyio.lowlevel.checkpoint()
            assert sent < 32
            (exchange,) = transport._exchanges
            assert exchange._buffered_bytes <= 2 * 256 * 1024
            received = 0
            async for data in response.stream:
                received += len(data)
        assert received == 64 * 2**20 + len(
            b'data: {"type": "start", "message": "Stream started"}\n\n'
        )


async def test_bytes_before_a_cut_are_delivered_first() -> None:
    async with ScriptedModel() as model, streaming(model) as (response, call, _):
        await call.raw(b"before")
        await call.vanish()
        arriving = response.stream.__aiter__()
        received = b""
        while not received.endswith(b"before"):
            received += await anext(arriving)
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(arriving)


async def test_closing_a_response_closes_its_connection() -> None:
    async with ScriptedModel() as model, streaming(model) as (response, call, _):
        await response.aclose()
        await call.closed()


async def test_cancelling_a_read_closes_the_connection_without_being_asked_to() -> None:
    async with ScriptedModel() as model, streaming(model) as (response, call, _):

        async def read() -> None:
            async for _ in response.stream:
                pass

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        await call.closed()


async def test_closing_the_transport_closes_its_connections() -> None:
    async with ScriptedModel() as model, streaming(model) as (response, call, transport):
        await transport.aclose()
        await call.closed()
        with pytest.raises(httpx.ReadError):
            await response.aread()


async def test_a_response_that_is_forgotten_warns_and_closes() -> None:
    async with ScriptedModel() as model:
        async with anyio.create_task_group() as tasks:
            calls: list[Any] = []

            async def begin() -> None:
                calls.append(await model.call())
                await calls[0].start()

            tasks.start_soon(begin)
            request = httpx.Request("POST", f"{model.url}/chat/stream", json={})
            response = await DirectTransport().handle_async_request(request)
        held = [response]
        del response
        with pytest.warns(ResourceWarning, match="not closed"):
            held.clear()
        await calls[0].closed()


# Cancellation at every stage


async def cancelled_when(reached: Callable[[], Awaitable[object]], url: str) -> None:
    """Cancel a request to `url` once `reached` returns."""

    async def ask() -> None:
        await get(url)
        pytest.fail("the request was not cancelled")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await reached()
        tasks.cancel_scope.cancel()


async def test_cancelled_while_connecting_no_socket_is_left(full_port: int) -> None:
    await anyio.wait_all_tasks_blocked()
    before = open_sockets()
    await cancelled_when(anyio.wait_all_tasks_blocked, f"http://127.0.0.1:{full_port}/")
    await anyio.wait_all_tasks_blocked()
    assert open_sockets() == before


def open_sockets() -> set[int]:
    def is_socket(descriptor: int) -> bool:
        try:
            return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
        except OSError:
            return False

    return set(filter(is_socket, range(1024)))


@pytest.mark.parametrize(
    "stage", ["tls", "no response", "half a head", "no body", "half a chunk", "between chunks"]
)
async def test_cancelled_at_any_stage_the_connection_is_closed(stage: str) -> None:
    async def serve(peer: Peer) -> None:
        await (peer.stream.receive() if stage == "tls" else peer.request())
        sent = {
            "half a head": b"HTTP/1.1 200 OK\r\nContent-",
            "no body": CHUNKED,
            "half a chunk": CHUNKED + b"5\r\nab",
            "between chunks": CHUNKED + b"5\r\nabcde\r\n",
        }
        if stage in sent:
            await peer.stream.send(sent[stage])
        reached.set()
        await peer.closed()
        closed.set()

    async def when_reached() -> None:
        await reached.wait()
        await anyio.wait_all_tasks_blocked()

    reached, closed = anyio.Event(), anyio.Event()
    async with server(serve) as url:
        secure = url.replace("http", "https") if stage == "tls" else url
        await cancelled_when(when_reached, secure)
        await closed.wait()
