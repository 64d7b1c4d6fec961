"""The connection of a client, made again whenever it breaks, until it must not come back."""

import asyncio
import json
import random
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidStatus,
    WebSocketException,
)

from gateway.origins import LOOPBACK
from gateway.talk.dialogue import Dialogue
from gateway.talk.shown import Shown, Told, Waiting
from protocol.errors import CloseCode

FIRST_RETRY_S = 0.5
LAST_RETRY_S = 10.0
OPEN_WITHIN_S = 10.0
READY_WITHIN_S = 10.0
CLOSE_WITHIN_S = 1.0
MAX_FRAME_BYTES = 8 * 1024 * 1024

Show = Callable[[Shown], Awaitable[None]]

# 4000 to 4499 say so; of RFC 6455's own, those that mean that the server, or the network, is gone.
_COME_BACK = frozenset({1000, 1001, 1005, 1006, 1011, 1012, 1013, 1014})
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
_WORDS: dict[int, str] = {
    CloseCode.UNAUTHORIZED: "the gateway wants an API key or a token: MIDM_KEY, or --key-file",
    CloseCode.INVALID_FRAMES: "the gateway did not understand what it was sent",
    CloseCode.SESSION_GONE: "there is no such session, or it was deleted",
    CloseCode.TOO_MANY_CONNECTIONS: "too many connections are open already",
    CloseCode.TOO_LARGE: "the message is larger than the gateway takes",
}
_NO_GATEWAY = "there is a server, but no gateway: {}"
_NO_FRAME = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What comes of reading as a frame what none is, or lacks what each of its type has."""


class HungUp(Exception):
    """There is no connection, and there will be none; the text says why in one line."""


@dataclass(frozen=True)
class Gateway:
    """Where a gateway is, and what opens it."""

    url: str
    key: Callable[[], str] = field(repr=False)
    """Read for every connection: a token may have been renewed since the last. May be empty."""


class Line:
    """Keeps one conversation connected.

    `give_up_s` is how long it may be away; None is for ever, once it was there. What is not there
    at first is not waited for at all.
    """

    def __init__(
        self, gateway: Gateway, dialogue: Dialogue, show: Show, *, give_up_s: float | None = None
    ) -> None:
        self.raw: Callable[[str], Awaitable[None]] | None = None
        """Is handed every frame as it came, if there is somebody who wants it."""
        self._gateway = gateway
        self._dialogue = dialogue
        self._show = show
        self._give_up_s = give_up_s
        self._news = asyncio.Event()
        self._was_there = False

    def ring(self) -> None:
        """Send what the dialogue has to send, as soon as that is possible."""
        self._news.set()

    async def run(self) -> None:
        """Stay connected until cancelled; raises `HungUp`."""
        loop = asyncio.get_running_loop()
        tries, away_since = 0, loop.time()
        while True:
            try:
                await self._connect_once()
                why = ""
            except (OSError, EOFError, TimeoutError, WebSocketException) as error:
                why = self._judge(error)
            if self._dialogue.ready:
                tries, away_since = 0, loop.time()
            self._dialogue.lost()
            if self._give_up_s is not None and loop.time() - away_since > self._give_up_s:
                raise HungUp(f"no connection for {self._give_up_s:.0f} s: {why}")
            wait_s = pause_s(tries, self._dialogue.come_back_ms, random.random())
            tries += 1
            await self._show(Waiting(f"connection lost ({why}); again in {wait_s:.1f} s"))
            await asyncio.sleep(wait_s)

    async def _connect_once(self) -> None:
        key = self._gateway.key()
        async with connect(
            f"{self._gateway.url}?{urlencode(self._dialogue.query)}",
            additional_headers={"Authorization": f"Bearer {key}"} if key else {},
            user_agent_header="midm-gateway chat",
            proxy=None if urlsplit(self._gateway.url).hostname in LOOPBACK else True,
            compression=None,
            open_timeout=OPEN_WITHIN_S,
            close_timeout=CLOSE_WITHIN_S,
            max_size=MAX_FRAME_BYTES,
        ) as socket:
            sending = asyncio.create_task(self._send_when_rung(socket))
            try:
                await self._listen(socket)
            finally:
                sending.cancel()
                await asyncio.wait((sending,))

    async def _listen(self, socket: ClientConnection) -> None:
        # Other servers answer pings, too: without a limit they would be listened to for ever.
        async with asyncio.timeout(READY_WITHIN_S) as limit:
            async for text in socket:
                if self.raw is not None and isinstance(text, str):
                    await self.raw(text)
                seen = self._hear(text)
                if self._dialogue.ready:
                    limit.reschedule(None)
                for shown in seen:
                    await self._show(shown)
                await self._send(socket)
        raise ConnectionClosed(socket.protocol.close_rcvd, socket.protocol.close_sent)

    def _hear(self, text: str | bytes) -> list[Shown]:
        """Take the next frame; raise `HungUp` for what no gateway says."""
        try:
            frame = json.loads(text)
            shown = self._dialogue.hear(frame)
            if frame["type"] == "ready":
                shown += [Waiting(""), *([Told("connected again")] if self._was_there else [])]
                self._was_there = True
        except _NO_FRAME:
            why = _NO_GATEWAY.format("what it says is no frame of one")
            raise HungUp(f"{_place(self._gateway.url)}: {why}") from None
        return shown

    async def _send_when_rung(self, socket: ClientConnection) -> None:
        with suppress(ConnectionClosed):  # which whoever listens hears too
            while True:
                await self._news.wait()
                self._news.clear()
                await self._send(socket)

    async def _send(self, socket: ClientConnection) -> None:
        for frame in self._dialogue.due():
            await socket.send(json.dumps(frame, ensure_ascii=False))

    def _judge(self, error: Exception) -> str:
        """Say why the connection is gone; raise `HungUp` if it is not to be made again."""
        if isinstance(error, ConnectionClosed):
            code = error.rcvd.code if error.rcvd is not None else 1006
            if may_come_back(code):
                return _words_of(code)
            raise HungUp(self._dialogue.last_words or _words_of(code)) from None
        if isinstance(error, InvalidStatus) and error.response.status_code in _BUSY:
            return f"the gateway answers with status {error.response.status_code}"
        why = _words(error)
        if isinstance(error, InvalidStatus) or not self._was_there:
            raise HungUp(f"{_place(self._gateway.url)}: {why}") from None
        return why


def may_come_back(code: int) -> bool:
    """Whether a client may connect again after a connection was closed with this code."""
    return code in _COME_BACK or 4000 <= code <= 4499


def pause_s(tries: int, told_ms: int | None, dice: float) -> float:
    """Say how long to wait before the next attempt: as told, or longer from try to try.

    `dice` is from 0 to 1: those who lost a gateway together shall not come back together.
    """
    if told_ms is not None and tries == 0:
        return told_ms / 1000
    longest = min(FIRST_RETRY_S * 2.0 ** min(tries, 16), LAST_RETRY_S)
    return longest * (0.5 + dice / 2)


def socket_url(url: str) -> str:
    """Make the address of the WebSocket of a gateway's; raise ValueError for what is no URL."""
    # What may hold a password is not repeated.
    given = "and hold no user or password" if "@" in url else f"given {url[:80]!r}"
    says = f"should be a URL such as http://127.0.0.1:8080, {given}"
    try:
        parts = urlsplit(url)
        _ = parts.port
        _ = (parts.hostname or "").encode("idna")  # asyncio looks it up by that
    except ValueError:
        raise ValueError(says) from None
    scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}.get(parts.scheme)
    if scheme is None or not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(says)
    path = parts.path.rstrip("/").removesuffix("/ws")
    return urlunsplit((scheme, parts.netloc, f"{path}/ws", "", ""))


def _words_of(code: int) -> str:
    return _WORDS.get(code, f"closed with {code}")


def _words(error: Exception) -> str:
    match error:
        case ConnectionRefusedError():
            return "nobody listens there; is the gateway running? (`midm-gateway serve`)"
        case InvalidStatus():
            return _NO_GATEWAY.format(f"it answers with status {error.response.status_code}")
        case InvalidHandshake() | EOFError():
            return _NO_GATEWAY.format(str(error) or type(error).__name__)
        case ssl.SSLError():
            return f"TLS failed: {error.reason or error}"
        case TimeoutError():
            return "no answer in time"
        case OSError():
            return error.strerror or str(error)
        case _:
            return str(error) or type(error).__name__


def _place(url: str) -> str:
    parts = urlsplit(url)
    return f"{'https' if parts.scheme == 'wss' else 'http'}://{parts.netloc}"
