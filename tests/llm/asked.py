"""A call of a driver as a test sees it: what it says, piece by piece, and how it ends."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field

import anyio

from llm.client import Ending, UpstreamError


@dataclass
class Asked:
    """One call of the driver: what it has said, and how it ended."""

    said: list[tuple[str, int]] = field(default_factory=list)
    ending: Ending | None = None
    error: UpstreamError | None = None
    over: anyio.Event = field(default_factory=anyio.Event)
    _heard: asyncio.Queue[tuple[str, int]] = field(default_factory=asyncio.Queue)

    def say(self, text: str, count: int) -> None:
        self.said.append((text, count))
        self._heard.put_nowait((text, count))

    async def next(self) -> tuple[str, int]:
        return await self._heard.get()

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.said)

    async def run(self, asking: Awaitable[Ending]) -> None:
        try:
            self.ending = await asking
        except UpstreamError as error:
            self.error = error
        self.over.set()
