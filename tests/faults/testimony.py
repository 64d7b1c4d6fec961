"""What clients have been promised: every frame that says that something is stored, as it came.

The clients are the reference clients of the whole-run tests; here they bear witness. What they
have been told is held against the file of a gateway that has died, see `kept`.
"""

import asyncio
from collections import Counter
from typing import Any

import httpx

from tests.whole.clients import Json, Turn, WebSocketClient
from tests.whole.http_client import HttpClient

_PREFIX = "Stream error: "

Promise = tuple[str, Json]
"""A session and the frame that promised it something."""


class Testimony:
    """The promises made to all clients together, in the order in which they were heard."""

    __test__ = False

    def __init__(self) -> None:
        self.promises: list[Promise] = []
        self.counts: Counter[str] = Counter()
        self._wanted = ("", 0)
        self._reached = asyncio.Event()

    def hear(self, session_id: str, frame: Json) -> None:
        """Take a frame; what promises nothing is only counted."""
        match frame:
            case {"type": "ready" | "accepted" | "start" | "complete" | "reply" | "begun"}:
                self.promises.append((session_id, frame))
            case {"type": "error", "id": _}:
                self.promises.append((session_id, frame))
        self.count(frame["type"])

    def count(self, kind: str) -> None:
        """Count something that happened."""
        self.counts[kind] += 1
        wanted, number = self._wanted
        if kind == wanted and self.counts[kind] >= number:
            self._reached.set()

    async def more(self, kind: str, number: int) -> None:
        """Wait until so many more of a kind have been heard, by whomever."""
        self._wanted = (kind, self.counts[kind] + number)
        self._reached.clear()
        await self._reached.wait()


class WitnessTab(WebSocketClient):
    """A tab; `frames` are those of its present connection."""

    def __init__(self, url: str, testimony: Testimony, **options: Any) -> None:
        super().__init__(url, **options)
        self.frames: list[Json] = []
        self._testimony = testimony

    async def took(self, frame: Json) -> None:
        if frame["type"] == "ready":
            self.frames.clear()
        self.frames.append(frame)
        assert self.session_id is not None
        self._testimony.hear(self.session_id, frame)

    async def sent(self, frame: Json) -> None:
        self._testimony.count("sent")


class WitnessHttpClient(HttpClient):
    """A client without a WebSocket."""

    def __init__(
        self, http: httpx.AsyncClient, session_id: str, testimony: Testimony, **options: Any
    ) -> None:
        super().__init__(http, session_id, **options)
        self._testimony = testimony

    async def took(self, response: httpx.Response, event: Json) -> None:
        if event["type"] == "error":
            # The one difference between an error in a stream of one turn and the stored one.
            event["message"] = event["message"].removeprefix(_PREFIX)
        self._testimony.hear(self.session_id, event)

    async def ask(self, message: str, **fields: Any) -> Json:
        """Ask with `POST /api/chat`; the reply is a promise, too."""
        reply = await super().ask(message, **fields)
        request_id = fields["request_id"]
        self._testimony.hear(self.session_id, {"type": "reply", "request_id": request_id, **reply})
        return reply

    async def ask_and_leave(self, message: str, **fields: Any) -> None:
        """Ask with `POST /api/chat/stream` and leave once its `start` is here."""
        await super().ask_and_leave(message, **fields)
        self._testimony.hear(self.session_id, {"type": "begun", "request_id": fields["request_id"]})


async def new_session(http: httpx.AsyncClient, testimony: Testimony) -> str:
    """Create a session, however often the gateway dies of it."""
    while True:
        try:
            created = await http.post("/api/sessions", json={})
        except httpx.TransportError:
            await asyncio.sleep(0.01)  # the gateway is not there: a client has to try again
            continue
        session_id: str = created.json()["session_id"]
        testimony.hear(session_id, {"type": "ready"})
        return session_id


def is_ended(turn: Turn | None) -> bool:
    """Whether a client has been told how a turn ended."""
    return turn is not None and turn.ending is not None
