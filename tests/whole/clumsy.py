"""Clients that lose their connections: the reference clients, with a hand on the cable."""

from collections.abc import Awaitable, Callable
from random import Random

import httpx

from tests.whole.audit import StrictLog
from tests.whole.clients import Json, WebSocketClient
from tests.whole.http_client import HttpClient
from tests.whole.proxy import reset

_CUT_CHANCE = 0.8
_CUT_AFTER_SENDING_CHANCE = 0.25
_RESET_CHANCE = 0.5
_MOST_FRAMES = 60


class Fate:
    """How many frames a connection lives to see, as the dice have it."""

    def __init__(self, dice: Random) -> None:
        self.cuts = 0
        self._dice = dice
        self._left = -1

    def begin(self) -> None:
        """A new connection, a new fate."""
        doomed = self._dice.random() < _CUT_CHANCE
        self._left = self._dice.randint(1, _MOST_FRAMES) if doomed else -1

    def strikes(self) -> bool:
        """Whether this frame was the last."""
        self._left -= 1
        self.cuts += self._left == 0
        return self._left == 0


class ClumsyTab(WebSocketClient):
    """A tab whose connection breaks after some frames, or as soon as it has sent something."""

    def __init__(
        self,
        url: str,
        *,
        log: StrictLog,
        dice: Random,
        session_id: str | None = None,
        history: Callable[[str], Awaitable[Json]] | None = None,
    ) -> None:
        super().__init__(url, session_id=session_id, log=log, history=history, dice=dice)
        self.fate = Fate(dice)

    async def took(self, frame: Json) -> None:
        if frame["type"] == "ready":
            self.fate.begin()
        elif self.fate.strikes():
            self._pull()

    async def sent(self, frame: Json) -> None:
        if self._dice.random() < _CUT_AFTER_SENDING_CHANCE:
            self.fate.cuts += 1
            self._pull()

    def _pull(self) -> None:
        if self._socket is not None:
            transport = self._socket.transport
            if self._dice.random() < _RESET_CHANCE and not transport.is_closing():
                reset(transport.get_extra_info("socket"))
            transport.abort()


class ClumsyHttpClient(HttpClient):
    """A client whose event streams break after some events."""

    def __init__(
        self, http: httpx.AsyncClient, session_id: str, *, log: StrictLog, dice: Random
    ) -> None:
        super().__init__(http, session_id, log=log, dice=dice)
        self.fate = Fate(dice)

    async def took(self, response: httpx.Response, event: Json) -> None:
        if event["type"] in ("ready", "start"):
            self.fate.begin()
        elif self.fate.strikes():
            if self._dice.random() < _RESET_CHANCE:
                reset(response.extensions["network_stream"].get_extra_info("socket"))
            raise httpx.ReadError("the cable was pulled")
