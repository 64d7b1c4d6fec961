"""One turn of many nodes: it runs on one of them, and is read on all."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from websockets.exceptions import ConnectionClosed

from tests.faults.nodes import Deployment, Node
from tests.faults.testimony import WitnessTab, is_ended
from tests.gateway.harness import call_of
from tests.llm.scripted import Call, ScriptedModel
from tests.whole.audit import StrictLog
from tests.whole.clients import Json, Turn

HEARD_WITHIN_S = 10.0


class Reader(WitnessTab):
    """A tab that stays on one node."""

    def __init__(self, here: Deployment, node: Node, **options: Any) -> None:
        super().__init__(node.socket_url, here.testimony, log=StrictLog(), **options)
        self.node = node

    async def __aexit__(self, *_: object) -> None:
        with suppress(ConnectionClosed):  # for good: whoever waits for something has heard of it
            await super().__aexit__(*_)

    async def took(self, frame: Json) -> None:
        await super().took(frame)
        await self.log.ring()  # for answers, too, which are not part of it

    async def greeted(self) -> None:
        """Wait until it is connected for the first time."""
        async with asyncio.timeout(HEARD_WITHIN_S):
            await self.until(lambda: self.log.cursor is not None)

    async def shows(self, text: str, turn: int = 1, within_s: float = HEARD_WITHIN_S) -> None:
        """Wait until it shows exactly this of a turn."""

        def does() -> bool:
            return turn in self.log.turns and self.log.turns[turn].text == text

        async with asyncio.timeout(within_s):
            await self.until(does)

    async def ended(self, turn: int = 1, within_s: float = HEARD_WITHIN_S) -> Turn:
        """Wait until it shows how a turn ended."""
        async with asyncio.timeout(within_s):
            await self.until(lambda: is_ended(self.log.turns.get(turn)))
        return self.log.turns[turn]

    async def was_told(self, kind: str, within_s: float = HEARD_WITHIN_S) -> Json:
        """Wait until a frame of a type has come over the present connection; return the last."""
        told: list[Json] = []

        def is_told() -> bool:
            told[:] = [frame for frame in self.frames if frame["type"] == kind]
            return bool(told)

        async with asyncio.timeout(within_s):
            await self.until(is_told)
        return told[-1]


@asynccontextmanager
async def reading(
    here: Deployment, nodes: Sequence[Node], session_id: str | None = None
) -> AsyncIterator[list[Reader]]:
    """Read one session, a new one if none is named, on some nodes."""
    if session_id is None:
        session_id = await here.new_session()
    async with AsyncExitStack() as stack:
        readers = []
        for node in nodes:
            reader = Reader(here, node, session_id=session_id)
            readers.append(await stack.enter_async_context(reader))
            await reader.greeted()
        yield readers


@dataclass
class Scene:
    """A session with one open turn; `local` is read where it runs, which is also where it asks."""

    local: Reader
    remote: list[Reader]
    call: Call
    asking: asyncio.Task[Turn]
    text: str = ""

    @property
    def readers(self) -> list[Reader]:
        """Everybody who reads it."""
        return [self.local, *self.remote]

    @property
    def session_id(self) -> str:
        """Its session."""
        assert self.local.session_id is not None
        return self.local.session_id

    async def say(self, *pieces: str) -> None:
        """Let the model go on."""
        await self.call.say(*pieces)
        self.text += "".join(pieces)

    async def is_read(self, within_s: float = HEARD_WITHIN_S) -> None:
        """Wait until everybody shows all that was said."""
        for reader in self.readers:
            await reader.shows(self.text, within_s=within_s)

    async def ended(self, within_s: float = HEARD_WITHIN_S) -> list[str]:
        """Wait until everybody shows the end and the same text; return how it ended."""
        turns = [await reader.ended(within_s=within_s) for reader in self.readers]
        assert [turn.text for turn in turns] == [self.text] * len(turns)
        return [(turn.ending or {}).get("finish_reason", "error") for turn in turns]


@asynccontextmanager
async def scene(
    here: Deployment, model: ScriptedModel, *, runs_on: Node, readers: Sequence[Node] | None = None
) -> AsyncIterator[Scene]:
    """Ask on a node and wait for the model to be asked; read on all others, or on `readers`."""
    others = [node for node in here.nodes if node is not runs_on] if readers is None else readers
    async with reading(here, [runs_on, *others]) as [local, *remote]:
        asking = asyncio.create_task(local.ask("안녕하세요", request_id="once"))
        try:
            yield Scene(local, list(remote), await call_of(model), asking)
        finally:
            asking.cancel()


@asynccontextmanager
async def scene_on_each(here: Deployment, model: ScriptedModel) -> AsyncIterator[list[Scene]]:
    """Open a scene for every node to run."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(scene(here, model, runs_on=node)) for node in here.nodes
        ]
