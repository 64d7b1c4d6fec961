"""The reference client that has no WebSocket: `POST` to ask, server-sent events to read."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from random import Random
from typing import Any, TypeVar
from uuid import uuid4

import httpx

from tests.whole.clients import RETRY_WITHIN_S, Json, Log, Refused, Turn, wait_s

T = TypeVar("T")

DONE = "[DONE]"


class HttpClient:
    """A client that has no WebSocket: it asks with POST and reads server-sent events."""

    def __init__(
        self, http: httpx.AsyncClient, session_id: str, *, log: Log, dice: Random | None = None
    ) -> None:
        self.session_id = session_id
        self.log = log
        self.requests = 0
        self._http = http
        self._dice = dice or Random()

    async def ask_and_stream(self, message: str, **fields: Any) -> Turn:
        """Ask with `POST /api/chat/stream` and read the turn from that response.

        Such a stream has no cursor to go on from: a repeat tells the turn from its `start`.
        """
        body = self._body(message, fields)
        while (turn := self.log.of_request(body["request_id"])) is None or turn.ending is None:
            self.log.cursor = None
            await self._try(self._stream("POST", "/api/chat/stream", json=body))
        return turn

    async def ask(self, message: str, **fields: Any) -> Json:
        """Ask with `POST /api/chat`; return the whole reply. Raises `Refused`."""
        body = self._body(message, fields)
        while (reply := await self._try(self._post("/api/chat", body))) is None:
            pass
        return reply

    async def ask_and_leave(self, message: str, **fields: Any) -> None:
        """Ask with `POST /api/chat/stream` and leave at its `start`, which does not stop it."""
        body = self._body(message, fields)
        while not await self._try(self._is_begun(body)):
            pass

    async def follow(self) -> None:
        """Read the session's events for ever, as an `EventSource` does."""
        path = f"/api/sessions/{self.session_id}/events"
        while True:
            place = {"Last-Event-ID": self.log.cursor} if self.log.cursor else {}
            await self._try(self._stream("GET", path, headers=place))

    async def took(self, response: httpx.Response, event: Json) -> None:
        """Look at an event after it has been folded; for subclasses."""

    def _body(self, message: str, fields: Json) -> Json:
        fields.setdefault("request_id", str(uuid4()))
        return {"session_id": self.session_id, "message": message, **fields}

    async def _try(self, attempt: Awaitable[T]) -> T | None:
        """Do it once; None if the connection was lost or it is to be tried again a little later."""
        self.requests += 1
        try:
            return await attempt
        except httpx.TransportError:
            await asyncio.sleep(self._dice.uniform(0, RETRY_WITHIN_S))
        except Refused as refused:
            # With a turn, it is that turn that failed: asked again it would be something new.
            if not refused.problem["retryable"] or refused.problem.get("turn") is not None:
                raise
            await asyncio.sleep(wait_s(refused.problem, self._dice))
        return None

    async def _post(self, path: str, body: Json) -> Json:
        response = await self._http.post(path, json=body)
        if not response.is_success:
            raise Refused(response.json())
        answer: Json = response.json()
        return answer

    async def _stream(self, method: str, path: str, **options: Any) -> None:
        async with self._http.stream(method, path, **options) as response:
            async for event in _events(response):
                if event["type"] == "ready":
                    await self._begin(event)
                await self.log.fold(event)
                await self.took(response, event)

    async def _begin(self, ready: Json) -> None:
        if self.log.cursor is not None and not ready["resumed"]:
            self.log.load(await load_history(self._http, self.session_id))
            raise httpx.ReadError("come back with the cursor of the history")
        self.log.cursor = ready["cursor"]

    async def _is_begun(self, body: Json) -> bool:
        async with self._http.stream("POST", "/api/chat/stream", json=body) as response:
            async for event in _events(response):
                if event["type"] == "start":
                    return True
        return False


async def load_history(http: httpx.AsyncClient, session_id: str) -> Json:
    """Load what a page shows first: the newest messages, and the cursor to go on from."""
    response = await http.get(f"/api/sessions/{session_id}/messages")
    if not response.is_success:
        raise Refused(response.json())
    history: Json = response.json()
    return history


async def _events(response: httpx.Response) -> AsyncIterator[Json]:
    """Read an event stream up to its end or `[DONE]`; raises `Refused`."""
    if not response.is_success:
        raise Refused(json.loads(await response.aread()))
    unfinished = b""
    async for data in response.aiter_raw():
        # On bytes, at LF alone: what str.splitlines() splits at may stand inside a text.
        *blocks, unfinished = (unfinished + data).split(b"\n\n")
        for block in blocks:
            fields = _fields(block)
            if fields.get("data") == DONE:
                return
            if "data" in fields:
                event: Json = json.loads(fields["data"])
                assert fields.get("id") == event.get("id")
                yield event


def _fields(block: bytes) -> dict[str, str]:
    lines = (line.partition(b": ") for line in block.split(b"\n") if not line.startswith(b":"))
    return {name.decode(): value.decode() for name, _, value in lines}
