"""A gateway that dies again and again, always on the same port and file, under clients that chat.

When it dies is said by the dice: after so many more frames of some kind have reached any client,
or while it is still starting. `FAULTS_SEED` throws the same dice again, as far as processes allow.
"""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random, SystemRandom

import httpx

from tests.faults.kept import Kept
from tests.faults.testimony import Testimony
from tests.whole.processes import MODULE, Program, gateway, running, simulator

SEED = os.environ.get("FAULTS_SEED") or str(SystemRandom().randrange(10**6))

HAPPENS_WITHIN_S = 60.0
"""Clients that chat as fast as they can see any kind of frame soon, on however busy a machine."""

MODEL_CALLS = 8
WHILE_STARTING_CHANCE = 0.2
STARTS_WITHIN_S = 1.0
MOMENTS = {"sent": 40, "accepted": 40, "start": 40, "token": 600, "complete": 40}
"""Kinds of moments, and how many of each may pass before the gateway dies."""

_PATIENCE = httpx.Timeout(30)


@dataclass
class World:
    """One file, one port, the gateways that come and go there, and what clients heard of them."""

    directory: Path
    port: int
    model_url: str
    dice: Random
    settings: dict[str, str]
    testimony: Testimony = field(default_factory=Testimony)
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    deaths: int = 0
    _confirmed: int = 0

    @property
    def url(self) -> str:
        """Where the gateway listens, if there is one."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def socket_url(self) -> str:
        """Where it takes WebSockets."""
        return f"ws://127.0.0.1:{self.port}/ws"

    @property
    def database(self) -> Path:
        """Its file."""
        return self.directory / "chat.db"

    def gateway(self, **settings: str) -> AbstractAsyncContextManager[Program]:
        """Run a gateway until it listens."""
        return gateway(self.directory, **(self._settings() | settings))

    def starting(self) -> AbstractAsyncContextManager[Program]:
        """Run a gateway that need not listen yet."""
        return running(*MODULE, directory=self.directory, **self._settings())

    @asynccontextmanager
    async def http(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client for HTTP that keeps no connection."""
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(
            base_url=self.url, timeout=_PATIENCE, limits=limits, trust_env=False
        ) as http:
            yield http

    def confirm(self) -> Kept:
        """See that the file has all that was promised since the last time; nobody may run."""
        kept = Kept.read(self.database)
        kept.confirm(self.testimony.promises[self._confirmed :])
        self._confirmed = len(self.testimony.promises)
        return kept

    def _settings(self) -> dict[str, str]:
        return {
            "PORT": str(self.port),
            "DATABASE_URL": self.database.name,
            "LLM_SERVER_URL": self.model_url,
            "LLM_MAX_CONCURRENCY": str(MODEL_CALLS),
            "LLM_COOL_DOWN_S": "0",
            **self.settings,
        }


@asynccontextmanager
async def world(
    directory: Path, name: str, *, interval_ms: float = 4, **settings: str
) -> AsyncIterator[World]:
    """Run a simulated model for gateways to come; `name` makes the dice those of one test."""
    print(f"FAULTS_SEED={SEED}")
    dice = Random(f"{SEED}-{name}")
    with held_port() as port:
        async with simulator(directory, interval_ms=interval_ms) as model:
            yield World(directory, port, model.url, dice, settings)
            assert await model.stop() == 0
            assert model.complaints == []


@contextmanager
def held_port() -> Iterator[int]:
    """A port of 127.0.0.1 for one gateway after another, and for nobody else in between.

    Not even for a client that tries to connect while nobody listens: the kernel may give it that
    very port for its own end, and then it is connected to itself and nobody can listen there.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        yield port


async def kill_often(world: World, kills: int) -> None:
    """Start the gateway and kill it, so many times; after each, see what it has kept."""
    for _ in range(kills):
        if world.dice.random() < WHILE_STARTING_CHANCE:
            await _kill_while_it_starts(world)
        else:
            await kill_at_a_moment(world)
        world.confirm()


async def kill_at_a_moment(world: World) -> None:
    """Start the gateway, and kill it in the middle of something."""
    kind = world.dice.choice(sorted(MOMENTS))
    number = world.dice.randint(1, MOMENTS[kind])
    async with world.gateway() as program, asyncio.timeout(HAPPENS_WITHIN_S):
        await world.testimony.more(kind, number)
        await kill(world, program)


async def _kill_while_it_starts(world: World) -> None:
    async with world.starting() as program:
        # Nothing is waited for: this is the moment that the dice have chosen.
        await asyncio.sleep(world.dice.uniform(0, STARTS_WITHIN_S))
        await kill(world, program)


async def kill(world: World, program: Program) -> None:
    """Kill a gateway, which has had nothing to complain of."""
    assert await program.stop(signal.SIGKILL) == -signal.SIGKILL
    assert program.complaints == []
    world.deaths += 1
