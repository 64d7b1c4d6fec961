"""Ways to send what nobody should, each of which returns once the gateway has dealt with it.

Every one of them fails if the answer is not a typed error, an answer of its kind or a close code
that the protocol has for this.
"""

import json
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from urllib.parse import quote
from uuid import uuid4
from zlib import crc32

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from protocol.chat import MAX_REQUEST_ID_CHARS
from protocol.errors import CloseCode, ErrorCode
from protocol.openapi import OPERATIONS, Operation, errors_of
from protocol.rest import Problem
from protocol.server_frames import Error
from tests.corpus.reading import Sample
from tests.gateway.peers import CLOSE, Peer
from tests.whole.clients import Json

Way = Callable[[httpx.AsyncClient, Sample], Awaitable[None]]

MAX_FRAME_BYTES = 512 * 1024
MAX_QUERY_BYTES = 1_000
MAX_SAID_BYTES = 16_384
PROTOCOL_ERROR, NO_UTF8 = 1002, 1007  # RFC 6455, section 7.4.1
POSTS = [call for call in OPERATIONS if call.method == "post"]


def socket_url(http: httpx.AsyncClient) -> str:
    """Say where the WebSocket of a gateway is."""
    return f"{str(http.base_url).replace('http', 'ws', 1).rstrip('/')}/ws"


def open_socket(http: httpx.AsyncClient, path: str = "") -> connect:
    """Connect as a browser would, without a limit to what may be sent."""
    return connect(
        socket_url(http) + path,
        proxy=None,
        compression=None,
        ping_interval=None,
        max_queue=None,  # with messages still unread, it would not see the answer to its close
    )


async def new_session(http: httpx.AsyncClient) -> str:
    """Begin a session."""
    created = await http.post("/api/sessions")
    session_id: str = created.json()["session_id"]
    return session_id


async def as_text(http: httpx.AsyncClient, sample: Sample) -> None:
    """Send it as a text frame: it is answered, and the connection goes on."""
    async with open_socket(http) as tab:
        ready = json.loads(await tab.recv())
        await tab.send(sample.about(ready["session_id"]), text=True)
        answers, code = await answers_of(tab)
    assert code == close_code_of(sample)
    if code is None and not is_silent(sample):
        assert answers
    for answer in answers:
        check_answer(answer)


async def as_binary(http: httpx.AsyncClient, sample: Sample) -> None:
    """Send it as a binary frame: nobody speaks so here."""
    async with open_socket(http) as tab:
        await tab.recv()
        await tab.send(sample.data)
        _, code = await answers_of(tab)
    is_too_large = len(sample.data) > MAX_FRAME_BYTES
    assert code == (CloseCode.TOO_LARGE if is_too_large else CloseCode.BINARY)


async def as_bytes(http: httpx.AsyncClient, sample: Sample) -> None:
    """Send it on a WebSocket, but in no frame; then say no more."""
    async with Speaker(str(http.base_url)) as peer:
        await peer.open()
        await peer.say_all(sample.data)
        assert await peer.close_code() in {
            *(None, PROTOCOL_ERROR, NO_UTF8),
            *(CloseCode.NORMAL, CloseCode.BINARY, CloseCode.TOO_LARGE),
        }


async def as_request(http: httpx.AsyncClient, sample: Sample) -> None:
    """Send it instead of a request; then say no more."""
    async with Speaker(str(http.base_url)) as peer:
        await peer.say_all(sample.data)
        answer = await peer.rest()
    assert not answer or answer[:10] in (b"HTTP/1.1 2", b"HTTP/1.1 4", b"HTTP/1.1 1"), answer
    assert b"Traceback" not in answer


async def as_query(http: httpx.AsyncClient, sample: Sample) -> None:
    """Put it wherever a URL has room for something of the client's."""
    session_id = await new_session(http)
    text = quote(sample.about(session_id)[:MAX_QUERY_BYTES])
    session = f"/api/sessions/{session_id}"
    # Not everywhere: two of eight places each, every sample and every place often enough.
    for method, path in _places(session, text)[crc32(sample.name.encode()) % 4 :: 4]:
        async with http.stream(method, path) as response:
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                await response.aread()
        assert response.status_code < 500, path


def _places(session: str, text: str) -> list[tuple[str, str]]:
    return [
        ("GET", f"/api/sessions/{text}"),
        ("DELETE", f"/api/sessions/{text}"),
        ("GET", f"/api/sessions?limit={text}&before={text}"),
        ("GET", f"{session}/messages?limit={text}"),
        ("GET", f"{session}/messages?before={text}&include={text}"),
        ("HEAD", f"{session}/events?after={text}"),
        ("GET", f"{session}/events?after={text}&ticket={text}"),
        ("POST", f"/api/sessions/{text}/cancel"),
    ]


async def as_handshake(http: httpx.AsyncClient, sample: Sample) -> None:
    """Connect with it for a session, and for a place in one."""
    text = quote(sample.data[:MAX_QUERY_BYTES])
    async with open_socket(http, f"?after={text}") as tab:
        ready = json.loads(await tab.recv())
        assert ready["type"] == "ready"
        assert not ready["resumed"]
    async with open_socket(http, f"?session_id={text}&ticket={text}") as tab:
        answers, code = await answers_of(tab)
    if code is not None:
        assert code in (CloseCode.SESSION_GONE, CloseCode.UNAUTHORIZED)
        check_answer(answers[-1])


async def as_body(http: httpx.AsyncClient, sample: Sample) -> None:
    """Post it where something can be posted: to every third call, every call often enough."""
    session_id = await new_session(http)
    for call in POSTS[crc32(sample.name.encode()) % 3 :: 3]:
        response = await http.post(
            call.path.format(session_id=session_id),
            content=sample.about(session_id),
            headers={"Content-Type": "application/json"},
        )
        check_response(call, response)


WAYS: list[Way] = [
    *(as_text, as_binary, as_bytes),
    *(as_request, as_query, as_handshake, as_body),
]


class Speaker(Peer):
    """A peer that has its say and then listens."""

    async def say_all(self, data: bytes) -> None:
        """Send everything there is, as far as it is taken, and say that this was all."""
        try:
            await self.send(data)
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has heard enough

    async def close_code(self) -> int | None:
        """Read until the connection is closed; return what the close frame says, if one comes."""
        heard = await self.rest()
        while len(heard) >= 2:
            size, start = heard[1], 2
            if size >= 126:
                start += 2 if size == 126 else 8
                size = int.from_bytes(heard[2:start], "big")
            if heard[0] & 0x0F == CLOSE:
                return int.from_bytes(heard[start : start + 2], "big") or None
            heard = heard[start + size :]
        return None


async def answers_of(tab: ClientConnection) -> tuple[list[Json], int | None]:
    """Read what is answered, up to the answer to a ping behind it or to the end; and its code."""
    marker = str(uuid4())
    answers: list[Json] = []
    with suppress(ConnectionClosed):  # what was said before can still be read
        await tab.send(json.dumps({"type": "ping", "request_id": marker}))
    with suppress(ConnectionClosed):
        while (answer := json.loads(await tab.recv())) != {"type": "pong", "request_id": marker}:
            answers.append(answer)
        return answers, None
    await tab.wait_closed()
    return answers, tab.close_code


def close_code_of(sample: Sample) -> int | None:
    """Say with which code a connection ends on which this came as a text frame, if it does."""
    if len(sample.data) > MAX_FRAME_BYTES:
        return CloseCode.TOO_LARGE
    return NO_UTF8 if sample.text is None else None


def is_silent(sample: Sample) -> bool:
    """Whether this is the one frame that may be taken without a word."""
    return b'"auth"' in sample.data


def check_answer(answer: Json) -> None:
    """An error has a code of the catalogue, and tells nothing of the inside."""
    if answer["type"] == "error":
        error = Error.model_validate(answer)
        assert error.code is not ErrorCode.INTERNAL
        assert error.message.isprintable()
        assert len(error.message.encode()) <= MAX_SAID_BYTES
        assert len(error.request_id or "") <= MAX_REQUEST_ID_CHARS


def check_response(call: Operation, response: httpx.Response) -> None:
    """A call answers as is described, and does not fail: nothing is the matter with the server."""
    assert response.status_code in {call.status, *errors_of(call)}, response.text
    assert response.status_code < 500, response.text
    if response.is_error:
        assert response.headers["content-type"] == "application/problem+json"
        assert Problem.model_validate_json(response.content).detail.isprintable()
        assert len(response.content) <= MAX_SAID_BYTES
