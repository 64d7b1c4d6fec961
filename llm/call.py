"""Calls of a model server over HTTP: their connections, their limits of time, how they fail."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import cast

import httpx

from llm.client import (
    Ending,
    Generation,
    NoConnection,
    Patience,
    PromptMessage,
    ReplyTooLong,
    UpstreamError,
    UpstreamFailed,
    UpstreamStalled,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from llm.reply import Reply
from llm.template import Template
from llm.transport import DirectTransport
from protocol import sse
from protocol.text import storable

OVERLOADED = frozenset({408, 429, 502, 503, 504})
"""Statuses by which a server, or what stands in front of it, asks to be called later."""

HEALTH_BYTES = 256 * 1024
LAST_WORDS_WITHIN_S = 1.0
"""How long what follows a reply that has ended well is waited for."""

_ROLES = frozenset({"system", "user", "assistant"})
_HEADERS = {
    "Accept-Encoding": "identity",  # a compressed stream waits for its compressor
    "User-Agent": "midm-chat-gateway",
}
_JSON = {"Content-Type": "application/json"}
encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
"""Writes JSON as it is sent."""


class Limit:
    """A limit of time that moves with the reply, and the error that exceeding it is."""

    def __init__(self, seconds: float, error: type[UpstreamError] = UpstreamTimeout) -> None:
        self.seconds = seconds
        self.error = error
        self.timer = asyncio.timeout(seconds)
        self.moves_at = 0.0
        """Before this time of the loop it need not be moved: it is a tenth too late at most."""
        self.final = False

    def go_on(self) -> None:
        """Let another request have what the one before it has left of the time."""
        when = self.timer.when()
        left = self.seconds if when is None else when - asyncio.get_running_loop().time()
        # A timer serves once; whoever listens to the reply moves the one that runs.
        self.timer = asyncio.timeout(max(left, 0.0))

    def move(self, seconds: float, error: type[UpstreamError]) -> None:
        """Begin to count anew, unless it has been reached already, as is about to be said."""
        if self.timer.expired():
            return
        self.seconds = seconds
        self.error = error
        self.moves_at = asyncio.get_running_loop().time() + seconds / 10
        self.timer.reschedule(self.moves_at + seconds)

    def end_within(self, seconds: float) -> None:
        """Move it for the last time."""
        if not self.final:
            self.final = True
            self.move(seconds, UpstreamStalled)


class Upstream:
    """One model server, as far as HTTP goes; each call has a connection of its own.

    Cancelling a call closes its connection before the cancellation goes on.
    """

    def __init__(self) -> None:
        # No httpx.AsyncClient in front of it: merging addresses, cookies, redirects and hooks cost
        # more than the exchange itself, for each call anew.
        self._transport = DirectTransport()
        self._closed = False

    @asynccontextmanager
    async def call(
        self, request: Template, *, limit: Limit, body: bytes = b""
    ) -> AsyncIterator[httpx.Response]:
        """Send a request and hold its response open; the one place where errors become ours."""
        if self._closed:
            raise UpstreamUnavailable("the driver is closed")
        replied = False
        try:
            async with limit.timer:
                response = await self._transport.send(request, body)
                replied = True
                async with aclosing(response):
                    yield response
        except httpx.ConnectTimeout as exc:
            raise NoConnection(str(exc)) from exc
        except httpx.TimeoutException as exc:
            raise UpstreamTimeout(str(exc)) from exc
        except httpx.HTTPError as exc:
            raise UpstreamUnavailable(f"{type(exc).__name__}: {exc}", replied=replied) from exc
        except sse.EventTooLong as exc:
            raise ReplyTooLong(str(exc)) from exc
        except TimeoutError as exc:
            if not limit.timer.expired():
                raise
            raise limit.error(f"no progress in {limit.seconds} s") from exc

    async def aclose(self) -> None:
        """Close every connection that is left; calls under way fail as `UpstreamUnavailable`."""
        self._closed = True
        await self._transport.aclose()


async def listen(
    response: httpx.Response, *, reply: Reply, limit: Limit, silence_s: float
) -> Ending:
    """Hear a stream until the reply is over; raises `UpstreamFailed` if that has no ending."""
    now = asyncio.get_running_loop().time

    def hear(data: bytes) -> bool:
        told = reply.hear(data)
        if reply.ending is None:
            # Setting a timer for every token would cost as much as reading it does.
            if told and now() >= limit.moves_at:
                limit.move(silence_s, UpstreamStalled)
        elif not reply.over:
            limit.end_within(LAST_WORDS_WITHIN_S)
        return not reply.over

    await response.extensions["listen"](hear)
    if reply.ending is None:
        raise UpstreamFailed("the stream ended without an end of the reply")
    return reply.ending


async def read(response: httpx.Response, max_bytes: int) -> bytes:
    """Read the body, or as much of it as is allowed; a JSON object cut short is none."""
    body = bytearray()
    async with aclosing(_arriving(response)) as arriving:
        async for data in arriving:
            body += data
            if len(body) > max_bytes:
                break
    return bytes(body[:max_bytes])


def _arriving(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    # Not `response.aiter_raw()`, a second generator around this one: it cannot be closed without
    # leaving this one suspended, for the garbage collector to close in a task of nobody's.
    stream = cast(AsyncIterable[bytes], response.stream)  # a `DirectTransport`'s is no other
    return cast("AsyncGenerator[bytes, None]", stream.__aiter__())


def template(
    url: httpx.URL, method: str, path: str, *, patience: Patience, api_key: str = ""
) -> Template:
    """Write the request that a call sends again and again; an `api_key` goes as a bearer token."""
    headers = _HEADERS if method == "GET" else _HEADERS | _JSON
    request = httpx.Request(
        method,
        url.copy_with(raw_path=url.raw_path.rstrip(b"/") + path.encode()),
        headers=headers | {"Authorization": f"Bearer {api_key}"} if api_key else headers,
        extensions={"timeout": {"connect": patience.connect_s}},
    )
    if url.userinfo and not api_key:
        request = next(httpx.BasicAuth(url.username, url.password).auth_flow(request))
    return Template(request)


def server_url(base_url: str) -> httpx.URL:
    """Read the address of a model server; raise ValueError for what is none."""
    with suppress(httpx.InvalidURL):
        url = httpx.URL(base_url)
        # The paths of calls are put behind it.
        if url.scheme in ("http", "https") and url.host and not (url.query or url.fragment):
            return url
    raise ValueError(f"not the address of a model server: {base_url!r}")


def require_sensible(messages: Sequence[PromptMessage], generation: Generation) -> None:
    """Raise ValueError for what no model server must ever be sent."""
    _require(messages, "there is no message")
    for message in messages:
        _require(message.role in _ROLES, f"there is no role {message.role!r}")
        _require(storable(message.content) == message.content, "a message is not storable")
        _require(message.role != "user" or message.content.strip(), "a user's message is blank")
    # Either of these freezes midm for a minute.
    _require(generation.max_new_tokens >= 1, "max_new_tokens must be at least 1")
    _require(not generation.do_sample or generation.temperature > 0, "temperature must exceed 0")


def _require(condition: object, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def require_events(response: httpx.Response) -> None:
    """Raise `UpstreamFailed` if a response is no stream of events."""
    content_type = response.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "text/event-stream":
        raise UpstreamFailed("the model server answers with something else than a stream of events")
