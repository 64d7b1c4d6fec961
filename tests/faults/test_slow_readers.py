"""Clients that do not read, while megabytes are said to them, cost nobody anything.

`FAULTS_READERS=1,10,50 python -m pytest tests/faults/test_slow_readers.py -s` is the long run: so
many that do not read for almost as long as they may, and megabytes for each of them.
"""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from tests.faults.resident import Resident
from tests.gateway.harness import Json
from tests.gateway.peers import Peer, noise, pieces_of
from tests.llm.scripted import ScriptedModel
from tests.whole.processes import Program, gateway

MB_FOR_EACH_READER = 0.6
"""What may be on its way to a peer: its transport's buffer, and one read of the log."""

MB_FOR_ALL = 40.0
"""What a reply of a megabyte needs while it is received, stored and read again."""

HOLD_S = 40.0
"""Less than a reader is waited for, by what it takes to read all that at last."""


@dataclass(frozen=True)
class Load:
    """How many do not read, and how much they do not read."""

    readers: int
    turns: int
    chars: int
    hold_s: float = 0.0

    def reply(self, turn: int) -> str:
        """What the model says in a turn, which nothing can compress."""
        return noise(self.chars, seed=turn)


SHORT = [Load(readers=1, turns=3, chars=400_000), Load(readers=20, turns=3, chars=400_000)]
LONG = [
    Load(readers=int(count), turns=8, chars=1_000_000, hold_s=HOLD_S)
    for count in os.environ.get("FAULTS_READERS", "").split(",")
    if count
]


class Scene:
    """A gateway in a process of its own, a session in it, and somebody who reads it."""

    def __init__(self, program: Program, tab: Peer, session_id: str) -> None:
        self.program = program
        self.tab = tab
        self.session_id = session_id
        self.longest_gap_s = 0.0

    def resident(self) -> Resident:
        """Look at the gateway's process."""
        return Resident.of(self.program.pid)

    async def ask(self) -> str:
        """Ask, and read the whole reply at once; return it."""
        await self.tab.say(1, b'{"type": "chat", "message": "more"}')
        text = ""
        async with asyncio.timeout(60):
            while (frame := await self._next())["type"] != "complete":
                assert frame["type"] in ("accepted", "start", "token", "ping"), frame
                text += frame.get("content", "")
        return text

    async def _next(self) -> Json:
        began = time.monotonic()
        frame = await self.tab.frame()
        self.longest_gap_s = max(self.longest_gap_s, time.monotonic() - began)
        return frame


@asynccontextmanager
async def scene(directory: Path, load: Load) -> AsyncIterator[Scene]:
    """Run a gateway whose model says the next reply of the load as fast as it is read."""
    async with ScriptedModel() as model:
        replies = map(load.reply, range(load.turns + 1))
        model.autoreply(lambda _: pieces_of(next(replies)))
        async with (
            gateway(directory, LLM_SERVER_URL=model.url) as program,
            Peer(program.url, room=1 << 20) as tab,
        ):
            yield Scene(program, tab, (await tab.open())["session_id"])
            assert await program.stop() == 0
    assert program.complaints == []


async def catch_up(peer: Peer, turns: int) -> list[str]:
    """Read all that was said meanwhile; return the text of each turn."""
    texts: list[str] = []
    offsets: list[int] = []
    async with asyncio.timeout(60):
        while len(texts) < turns or offsets:
            frame = await peer.frame()
            match frame:
                case {"type": "start", "turn": turn}:
                    assert turn == len(texts) + 1
                    texts.append("")
                    offsets = [0]
                case {"type": "token", "id": cursor, "content": content}:
                    texts[-1] += content
                    assert cursor == f"{len(texts)}.1.{len(texts[-1])}"
                case {"type": "complete", "id": cursor}:
                    assert cursor == f"{len(texts)}.1.end"
                    offsets = []
                case _:
                    assert frame["type"] == "ping", frame
    return texts


async def stored(program: Program, session_id: str) -> list[str]:
    """Load the replies of a session, one message a page: they are large."""
    texts: list[str] = []
    before: str | None = ""
    while before is not None:
        async with Peer(program.url, room=1 << 20) as peer:
            query = f"limit=1{before and f'&before={before}'}"
            path = f"/api/sessions/{session_id}/messages?{query}"
            await peer.request("GET", path, Connection="close")
            await peer.until(b"\r\n\r\n")
            page: Json = json.loads(await peer.rest())
        texts += [m["content"] for m in page["messages"] if m["role"] == "assistant"]
        before = page["next_before"]
    return texts[::-1]


@pytest.mark.parametrize(
    "load",
    LONG or SHORT,
    ids=lambda load: f"{load.readers}x{load.turns}x{load.chars}",
)
async def test_who_does_not_read_holds_up_nobody_and_misses_nothing(
    load: Load, tmp_path: Path
) -> None:
    async with scene(tmp_path, load) as here, AsyncExitStack() as stack:
        texts = [await here.ask()]  # a first turn, so that what is used once is there
        before = here.resident()
        most = before.mb
        stuck = [Peer(here.program.url) for _ in range(load.readers)]
        for peer in stuck:
            await stack.enter_async_context(peer)
            await peer.open(session_id=here.session_id, after="0.0.end")
        began = time.monotonic()
        for _ in range(load.turns):
            texts.append(await here.ask())
            most = max(most, here.resident().mb)
        took_s = time.monotonic() - began
        # Some do nothing but wait, for as long as a reader is waited for.
        await anyio.sleep(max(0.0, load.hold_s - took_s))
        after = here.resident()
        said_mb = sum(len(text.encode()) for text in texts[1:]) / 1e6
        print(
            f"{load.readers} stuck readers x {said_mb:.1f} MB in {took_s:.1f} s:"
            f" {before.mb} MB before, at most {most}, {after.mb} after;"
            f" the other tab waited {here.longest_gap_s:.2f} s at most"
        )
        assert texts == [load.reply(turn) for turn in range(load.turns + 1)]
        assert await stored(here.program, here.session_id) == texts
        assert most - before.mb < MB_FOR_ALL + load.readers * MB_FOR_EACH_READER
        assert here.longest_gap_s < 5.0
        # Reading at last, before the limit: everything, in order.
        for peer in stuck[:3]:
            assert await catch_up(peer, load.turns + 1) == texts
