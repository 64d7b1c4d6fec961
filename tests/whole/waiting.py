"""Waiting for what a gateway says, by kind, whatever else it says before."""

import json
from collections.abc import AsyncIterator

from websockets.asyncio.client import ClientConnection

from tests.whole.clients import Json


async def next_frame(socket: ClientConnection, *kinds: str) -> Json:
    """Wait for a frame of one of some types."""
    while (frame := json.loads(await socket.recv()))["type"] not in kinds:
        pass
    found: Json = frame
    return found


async def next_event(lines: AsyncIterator[str], kind: str) -> Json:
    """Wait for an event of some type."""
    async for line in lines:
        if line.startswith("data: {"):
            event: Json = json.loads(line.removeprefix("data: "))
            if event["type"] == kind:
                return event
    raise AssertionError(f"the stream ended without {kind}")
