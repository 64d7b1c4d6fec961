"""What a scenario listens to: one WebSocket or one event stream, frame after frame."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

import httpx
from jsonschema import Draft202012Validator
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from protocol.schema import json_schema
from tests.conformance.matching import Mismatch

Json = dict[str, Any]

WITHIN_S = 15.0
_SERVER_FRAME = Draft202012Validator(
    {"$ref": "#/$defs/ServerFrame", "$defs": json_schema()["$defs"]}
)
_UNASKED = {"ping", "queued"}
"""What may come at any time; passed over unless it is what is waited for."""


@dataclass(frozen=True)
class End:
    """Nothing more comes: why."""

    reason: int | str


class Source(Protocol):
    async def receive(self) -> Json | End: ...

    async def aclose(self) -> None: ...


class Socket:
    """A WebSocket."""

    def __init__(self, inner: ClientConnection) -> None:
        self.inner = inner

    async def receive(self) -> Json | End:
        """Wait for the next frame."""
        try:
            frame: Json = json.loads(await self.inner.recv(decode=True))
        except ConnectionClosed as closed:
            return End(closed.rcvd.code if closed.rcvd else 1006)
        return frame

    async def aclose(self) -> None:
        """Leave."""
        await self.inner.close()


class Events:
    """The body of a response, as server-sent events."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines: AsyncIterator[str] = response.aiter_lines()

    async def receive(self) -> Json | End:
        """Wait for the next event; each has an `id` line exactly if it has an `id`."""
        place = None
        async for line in self._lines:
            name, _, value = line.partition(": ")
            if name == "id":
                place = value
            elif name == "data" and value == "[DONE]":
                return End("done")
            elif name == "data":
                frame: Json = json.loads(value)
                if frame.get("id") != place:
                    raise Mismatch(f"the line id: {place} is not that of {frame}")
                return frame
            elif line and not line.startswith(":"):
                raise Mismatch(f"no line of an event stream: {line}")
        return End("end")

    async def aclose(self) -> None:
        """Leave."""
        await self.response.aclose()


class Wire:
    """Frames in order, each valid by the schema, with one that may be looked at beforehand."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._ahead: Json | End | None = None

    async def peek(self) -> Json | End:
        """Wait for the next frame, and leave it there."""
        if self._ahead is None:
            try:
                async with asyncio.timeout(WITHIN_S):
                    self._ahead = await self.source.receive()
            except TimeoutError:
                raise Mismatch(f"nothing came within {WITHIN_S:g} s") from None
            if isinstance(self._ahead, dict):
                for error in _SERVER_FRAME.iter_errors(self._ahead):
                    raise Mismatch(f"not a frame: {error.message}")
        return self._ahead

    async def next(self, kind: str | None = None) -> Json | End:
        """Wait for the next frame, passing over those that may come unasked."""
        while True:
            frame = await self.peek()
            self._ahead = None
            if isinstance(frame, End) or frame["type"] not in _UNASKED - {kind}:
                return frame
