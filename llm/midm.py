"""Driver for midm's own wire: `/chat`, `/chat/stream` and `/health` of its model server."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import cast

import httpx

from llm.client import (
    Ending,
    Generation,
    Patience,
    PromptMessage,
    ReplyTooLong,
    Say,
    UpstreamError,
    UpstreamFailed,
    UpstreamStalled,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from llm.midm_reply import Reply, parse
from llm.template import Template
from llm.transport import DirectTransport
from protocol import sse
from protocol.text import storable

logger = logging.getLogger(__name__)

_OVERLOADED = frozenset({408, 429, 502, 503, 504})
_ROLES = frozenset({"system", "user", "assistant"})
_HEADERS = {
    "Accept-Encoding": "identity",  # a compressed stream waits for its compressor
    "User-Agent": "midm-chat-gateway",
}
_JSON = {"Content-Type": "application/json"}
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_HEALTH_BYTES = 64 * 1024


class Midm:
    """The model server of midm at `base_url`, an http(s) address with or without a path.

    Each call has a connection of its own. Cancelling a call closes its connection before the
    cancellation goes on. `max_reply_chars` bounds a reply in Unicode code points; what came before
    it was exceeded has been said. The clock of `patience.first_token_s` starts with the call,
    connecting included; that of `patience.silence_s` is at most a tenth late.

    Both calls raise ValueError for a prompt or settings that are known to freeze or confuse the
    server (no message, blank user text, nothing to generate, sampling at temperature zero …): who
    calls has validated earlier. Every other failure is an `UpstreamError`.
    """

    def __init__(
        self,
        base_url: str,
        *,
        patience: Patience = Patience(),  # noqa: B008 - frozen
        max_reply_chars: int = 1_000_000,
    ) -> None:
        self._patience = patience
        self._max_reply_chars = max_reply_chars
        # No httpx.AsyncClient in front of it: merging addresses, cookies, redirects and hooks cost
        # more than the exchange itself, for each call anew.
        self._transport = DirectTransport()
        self._closed = False
        url = server_url(base_url)
        self._to_stream = _template(url, "POST", "/chat/stream", patience)
        self._to_chat = _template(url, "POST", "/chat", patience)
        self._to_health = _template(url, "GET", "/health", patience)

    async def stream(
        self, messages: Sequence[PromptMessage], generation: Generation, say: Say
    ) -> Ending:
        """Ask for a reply and hand its pieces to `say` as they arrive.

        Returns as soon as the server says that the reply is complete. Of usage midm tells nothing
        here, and `length` is inferred from the number of pieces, each of which is at least one
        token. Raises `UpstreamError`; what was said until then stands.
        """
        body = _body(messages, generation)
        reply = self._reply(say, generation)
        limit = _Limit(self._patience.first_token_s, UpstreamTimeout)
        try:
            async with self._call(self._to_stream, limit=limit, body=body) as response:
                _require_ok(response)
                _require_events(response)
                return await self._listen(response, reply=reply, limit=limit)
        finally:
            if reply.ignored:
                logger.warning("ignored %d events that made no sense", reply.ignored)

    async def complete(
        self, messages: Sequence[PromptMessage], generation: Generation, say: Say
    ) -> Ending:
        """Ask for a reply in one piece, handed to `say` once, unless it is empty.

        The whole answer has to be there within `patience.reply_s`. Raises `UpstreamError`.
        """
        body = _body(messages, generation)
        reply = self._reply(say, generation)
        limit = _Limit(self._patience.reply_s, UpstreamTimeout)
        async with self._call(self._to_chat, limit=limit, body=body) as response:
            _require_ok(response)
            answer = await _read(response, reply.max_bytes)
        return reply.hear_whole(parse(answer))

    async def healthy(self, *, timeout_s: float = 2.0) -> bool:
        """Whether the server says that its model is loaded.

        False as well for any answer that is not midm's. Raises `UpstreamTimeout` when none comes
        within `timeout_s` seconds (which may mean that the server is busy: generation blocks it),
        `UpstreamUnavailable` when nobody answers at all.
        """
        limit = _Limit(timeout_s, UpstreamTimeout)
        async with self._call(self._to_health, limit=limit) as response:
            if response.status_code != httpx.codes.OK:
                return False
            health = parse(await _read(response, _HEALTH_BYTES))
        # `status` is the constant "healthy"; only this field knows.
        return isinstance(health, dict) and health.get("model_loaded") is True

    async def aclose(self) -> None:
        """Close every connection that is left; calls under way fail as `UpstreamUnavailable`."""
        self._closed = True
        await self._transport.aclose()

    def _reply(self, say: Say, generation: Generation) -> Reply:
        return Reply(say, max_new_tokens=generation.max_new_tokens, max_chars=self._max_reply_chars)

    async def _listen(self, response: httpx.Response, *, reply: Reply, limit: "_Limit") -> Ending:
        silence_s, now = self._patience.silence_s, asyncio.get_running_loop().time

        def hear(data: bytes) -> bool:
            # Setting a timer for every token would cost as much as reading it does.
            if reply.hear(data) and now() >= limit.moves_at:
                limit.move(silence_s, UpstreamStalled)
            return reply.ending is None

        await response.extensions["listen"](hear)
        if reply.ending is None:
            raise UpstreamFailed("the stream ended without an end of the reply")
        return reply.ending

    @asynccontextmanager
    async def _call(
        self, request: Template, *, limit: "_Limit", body: bytes = b""
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


class _Limit:
    """A limit of time that moves with the reply, and the error that exceeding it is."""

    def __init__(self, seconds: float, error: type[UpstreamError]) -> None:
        self.seconds = seconds
        self.error = error
        self.timer = asyncio.timeout(seconds)
        self.moves_at = 0.0
        """Before this time of the loop it need not be moved: it is a tenth too late at most."""

    def move(self, seconds: float, error: type[UpstreamError]) -> None:
        """Begin to count anew, unless it has been reached already, as is about to be said."""
        if self.timer.expired():
            return
        self.seconds = seconds
        self.error = error
        self.moves_at = asyncio.get_running_loop().time() + seconds / 10
        self.timer.reschedule(self.moves_at + seconds)


def _template(url: httpx.URL, method: str, path: str, patience: Patience) -> Template:
    request = httpx.Request(
        method,
        url.copy_with(raw_path=url.raw_path.rstrip(b"/") + path.encode()),
        headers=_HEADERS if method == "GET" else _HEADERS | _JSON,
        extensions={"timeout": {"connect": patience.connect_s}},
    )
    if url.userinfo:
        request = next(httpx.BasicAuth(url.username, url.password).auth_flow(request))
    return Template(request)


def _body(messages: Sequence[PromptMessage], generation: Generation) -> bytes:
    """Write the request; raise ValueError for what midm must never be sent."""
    _require(messages, "there is no message")
    for message in messages:
        _require(message.role in _ROLES, f"midm does not know the role {message.role!r}")
        _require(storable(message.content) == message.content, "a message is not storable")
        _require(message.role != "user" or message.content.strip(), "a user's message is blank")
    # Either of these freezes the whole server for a minute.
    _require(generation.max_new_tokens >= 1, "max_new_tokens must be at least 1")
    _require(not generation.do_sample or generation.temperature > 0, "temperature must exceed 0")
    request = {
        "messages": [{"role": m.role, "content": m.content} for m in messages],
        "max_new_tokens": generation.max_new_tokens,
        "temperature": generation.temperature,
        "do_sample": generation.do_sample,
    }
    return _encode(request).encode()


def server_url(base_url: str) -> httpx.URL:
    """Read the address of a model server; raise ValueError for what is none."""
    with suppress(httpx.InvalidURL):
        url = httpx.URL(base_url)
        if url.scheme in ("http", "https") and url.host:
            return url
    raise ValueError(f"not the address of a model server: {base_url!r}")


def _require(condition: object, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def _require_ok(response: httpx.Response) -> None:
    status = response.status_code
    if response.is_success:
        return
    # Its words are not read: they may quote what a user has said, which no log is to hold.
    if status in _OVERLOADED:
        raise UpstreamUnavailable(f"the model server answers with status {status}")
    raise UpstreamFailed(f"the model server answers with status {status}")


def _require_events(response: httpx.Response) -> None:
    content_type = response.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "text/event-stream":
        raise UpstreamFailed("the model server answers with something else than a stream of events")


async def _read(response: httpx.Response, max_bytes: int) -> bytes:
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
    return cast("AsyncGenerator[bytes, None]", response.stream.__aiter__())  # type: ignore[union-attr]
