"""A gateway under attack: what it holds, what it logs, and somebody who only wants to chat.

    async with besieged(directory, Limits) as siege:
        async with siege.undisturbed(peers=1):
            ...                              # the attack

While the attack lasts, the innocent user asks and is answered in full, over and over. After it,
the memory has stayed within bounds, the log has at most a line for each hostile peer and no
traceback, and no task, connection or file is left.
"""

import json
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import anyio

from tests.gateway.harness import WITHIN_S
from tests.gateway.peers import Peer, noise, pieces_of
from tests.llm.scripted import Messages, ScriptedModel
from tests.whole.processes import Program, running

ROOT = Path(__file__).parents[2]

QUICK = {"head_s": 0.5, "body_s": 0.5, "read_s": 0.5, "close_s": 0.2, "flood_s": 0.5}
"""Limits that a test can wait for."""

REPLY = [f"{number} " for number in range(100)]
FLOOD = "flood me"
FLOODED = noise(900_000, seed=1)
"""More, in UTF-8, than all buffers between the gateway and a peer that does not read."""

LONGEST_S = 5.0
"""Nobody waits so long for a reply that the model gives at once, whatever others do."""

MB_FOR_AN_ATTACK = 24.0


@dataclass(frozen=True)
class Held:
    """What a gateway holds at one moment."""

    tasks: int
    connections: int
    sockets: int


class Innocent:
    """A user who asks, reads the whole reply, and asks again."""

    def __init__(self, peer: Peer) -> None:
        self.longest_s = 0.0
        self._peer = peer
        self._goes_on = True

    async def ask(self) -> None:
        """Ask once; the reply must be whole, and come soon."""
        began = time.monotonic()
        await self._peer.say(1, b'{"type": "chat", "message": "hi"}')
        text = ""
        while (frame := await self._peer.frame())["type"] != "complete":
            assert frame["type"] in ("accepted", "start", "queued", "token", "ping"), frame
            text += frame.get("content", "")
        assert text == "".join(REPLY)
        self.longest_s = max(self.longest_s, time.monotonic() - began)

    async def chat(self) -> None:
        """Ask at least once, and again and again until told to stop."""
        await self.ask()
        while self._goes_on:
            await self.ask()

    def stop(self) -> None:
        """Ask no more after this reply."""
        self._goes_on = False


class Siege:
    """A gateway that strangers attack."""

    def __init__(self, program: Program) -> None:
        self.url = program.url
        self.pid = program.pid
        self.program = program
        self._asked = count(1)

    async def held(self) -> Held:
        """Ask the gateway what it holds."""
        self.program.send(signal.SIGUSR1)
        found = await self.program.said(
            rf"held {next(self._asked)}: (\d+) tasks, (\d+) connections"
        )
        return Held(int(found[1]), int(found[2]), sockets_of(self.pid))

    @asynccontextmanager
    async def undisturbed(
        self, *, peers: int, within_mb: float = MB_FOR_AN_ATTACK
    ) -> AsyncIterator[None]:
        """Let so many peers attack."""
        async with Peer(self.url, room=1 << 20) as tab:
            await tab.open()
            innocent = Innocent(tab)
            await innocent.ask()
            before, lines, peak = await self.held(), len(self.program.err), Peak(self.pid)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(innocent.chat)
                yield
                innocent.stop()
            await self._lets_go_of_all_but(before)
        assert innocent.longest_s < LONGEST_S
        assert peak.grown_mb() < within_mb
        assert len(self.program.err) - lines <= peers, self.program.err[lines:]
        assert self.program.complaints == []

    async def _lets_go_of_all_but(self, before: Held) -> None:
        held = await self.held()
        with anyio.move_on_after(WITHIN_S):
            while not _no_more(held, before):
                await anyio.sleep(0.02)
                held = await self.held()
        assert _no_more(held, before), f"{held}, and before {before}"


def _no_more(held: Held, before: Held) -> bool:
    return (
        held.tasks <= before.tasks
        and held.connections <= before.connections
        and held.sockets <= before.sockets
    )


def sockets_of(pid: int) -> int:
    """Count the sockets of a process; of files SQLite opens some more when it needs them."""
    count = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            count += str(descriptor.readlink()).startswith("socket:")
    return count


class Peak:
    """The most memory that a process has had since this was made."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # so that `VmHWM` is counted anew
        self._before = self._mb("VmRSS")

    def grown_mb(self) -> float:
        """How much more than at the beginning that was."""
        return self._mb("VmHWM") - self._before

    def _mb(self, name: str) -> float:
        found = re.search(rf"{name}:\s+(\d+) kB", self._status.read_text())
        assert found
        return int(found[1]) / 1024


@asynccontextmanager
async def besieged(
    directory: Path, limits: dict[str, Any], *launcher: str, **settings: str
) -> AsyncIterator[Siege]:
    """Run a gateway in a process of its own, by way of a launcher if need be."""
    async with ScriptedModel() as model:
        model.autoreply(_reply)
        command = (*launcher, sys.executable, "-m", "tests.hostile.program", json.dumps(limits))
        environment = {
            "PYTHONPATH": str(ROOT),
            "PORT": "0",
            "DATABASE_URL": "chat.db",
            "LLM_COOL_DOWN_S": "0",
            "LLM_SERVER_URL": model.url,
            **settings,
        }
        async with running(*command, directory=directory, **environment) as program:
            await program.listens()
            yield Siege(program)
            assert await program.stop() == 0
    assert program.complaints == []


def _reply(messages: Messages) -> list[str]:
    return pieces_of(FLOODED) if messages[-1]["content"] == FLOOD else REPLY
