"""Many gateways on one PostgreSQL and one Redis, where now one dies and now another stands still.

    async with deployment(directory, "kill", servers=servers, model_url=model.url) as here:
        async with connect(here.nodes[0].socket_url) as socket: ...
        held = await here.kill(here.nodes[1])

Nodes are processes, each with a name and a port that it keeps whatever becomes of it. What they
have promised is read from PostgreSQL by a connection of our own.
"""

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
import httpx

from tests.faults.kept import TURNS, Kept, KeptTurn
from tests.faults.killing import SEED, held_port
from tests.faults.testimony import Testimony
from tests.whole.clients import Json
from tests.whole.processes import MODULE, Program, running

LEASE_S = 6.0
"""How long a node that says nothing keeps its turns; see `storage.leases`."""

TAKEN_UP_WITHIN_S = 10.0
FENCED = "is not this process's any more"
"""What a node says that finds out that somebody else has gone on with a turn of its own."""

_LOOK_EVERY_S = 0.1
_READY_WITHIN_S = 20.0
_LEASES = "SELECT session_id, turn, attempt FROM leases WHERE node LIKE $1 || '-%'"

Attempt = tuple[str, int, int]
"""A session, a turn and its attempt."""


async def seen(look: Callable[[], Awaitable[bool]], *, within_s: float) -> None:
    """Wait until something is so that other processes know of, by asking again and again."""
    async with asyncio.timeout(within_s):
        while not await look():  # noqa: ASYNC110 - they cannot set an event of ours
            await asyncio.sleep(_LOOK_EVERY_S)


@dataclass(frozen=True)
class Servers:
    """What all nodes share; `prefix` is what they call theirs on Redis."""

    database_url: str
    broker_url: str
    prefix: str


@dataclass(frozen=True)
class Fault:
    """Something that befell a node, at a moment of `time.monotonic`, and the turns it ran then."""

    node: "Node"
    kind: str
    at: float
    held: frozenset[Attempt]


class Node:
    """A place for a gateway, and the gateways that came and went there."""

    def __init__(self, name: str, port: int, *, directory: Path, settings: dict[str, str]) -> None:
        self.name = name
        self.past: list[Program] = []
        self.settings = settings | {"PORT": str(port), "NODE_NAME": name}
        self._port = port
        self._directory = directory
        self._stack = AsyncExitStack()

    def __repr__(self) -> str:
        return f"Node({self.name!r})"

    @property
    def url(self) -> str:
        """Where it listens, if it does."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def socket_url(self) -> str:
        """Where it takes WebSockets."""
        return f"ws://127.0.0.1:{self._port}/ws"

    @property
    def program(self) -> Program:
        """The gateway that runs here, or did last."""
        return self.past[-1]

    @property
    def run_name(self) -> str:
        """How what it calls itself in this run of it begins."""
        return f"{self.name}-{self.program.pid}"

    async def start(self, **settings: str) -> None:
        """Start a gateway here and wait until it listens."""
        program = running(*MODULE, directory=self._directory, **(self.settings | settings))
        self.past.append(await self._stack.enter_async_context(program))
        await self.program.listens()

    async def kill(self) -> None:
        """Let the gateway die on the spot."""
        assert await self.program.stop(signal.SIGKILL) == -signal.SIGKILL

    def freeze(self) -> None:
        """Let it stand still: its sockets stay open, and nothing is answered."""
        self.program.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on where it stood."""
        self.program.send(signal.SIGCONT)

    async def stop(self) -> int:
        """Tell it to stop; return its exit code."""
        return await self.program.stop()

    async def close(self) -> None:
        """End whatever still runs here."""
        await self._stack.aclose()

    def lines(self) -> list[str]:
        """Everything that all gateways here have written."""
        return [line for program in self.past for line in program.out + program.err]

    def complaints(self) -> list[str]:
        """What no healthy gateway writes."""
        return [line for program in self.past for line in program.complaints]

    @asynccontextmanager
    async def http(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client of this node that keeps no connection."""
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(
            base_url=self.url, timeout=30, limits=limits, trust_env=False
        ) as http:
            yield http

    async def readiness(self) -> tuple[int, list[str]]:
        """Ask whether it is ready, and what it misses."""
        async with self.http() as http:
            answer = await http.get("/readyz")
        return answer.status_code, answer.json()["missing"]

    async def until_ready(self, status: int = 200) -> list[str]:
        """Wait until it answers `/readyz` in this way; return what is missing."""
        missing: list[str] = []

        async def says_so() -> bool:
            nonlocal missing
            told, missing = await self.readiness()
            return told == status

        await seen(says_so, within_s=_READY_WITHIN_S)
        return missing


@dataclass
class Deployment:
    """The nodes, what befell them, and what their clients have been told."""

    servers: Servers
    nodes: list[Node]
    dice: Random
    testimony: Testimony = field(default_factory=Testimony)
    faults: list[Fault] = field(default_factory=list)

    async def rows(self, sql: str, *values: Any) -> Sequence[Any]:
        """Look into the database."""
        connection = await asyncpg.connect(self.servers.database_url, timeout=10)
        try:
            rows: Sequence[Any] = await connection.fetch(sql, *values)
        finally:
            await connection.close()
        return rows

    async def held_by(self, node: Node) -> frozenset[Attempt]:
        """The turns that are a node's to run, whether or not it is alive."""
        rows = await self.rows(_LEASES, node.run_name)
        return frozenset((row[0], row[1], row[2]) for row in rows)

    async def until_it_holds(self, node: Node, number: int) -> None:
        """Wait until exactly so many turns are a node's to run."""

        async def holds() -> bool:
            return len(await self.held_by(node)) == number

        await seen(holds, within_s=_READY_WITHIN_S)

    async def kill(self, node: Node) -> Fault:
        """Let a node die; return what it leaves behind."""
        at = time.monotonic()
        await node.kill()
        return await self._note(node, "kill", at)

    async def freeze(self, node: Node) -> Fault:
        """Let a node stand still; return what it holds."""
        at = time.monotonic()
        node.freeze()
        # What was on its way to the database is there when this is answered, or will never be.
        return await self._note(node, "freeze", at)

    async def _note(self, node: Node, kind: str, at: float) -> Fault:
        self.faults.append(Fault(node, kind, at, await self.held_by(node)))
        return self.faults[-1]

    async def kept(self) -> Kept:
        """Read what is stored, and see that it is all that was promised."""
        sessions = await self.rows("SELECT session_id FROM sessions")
        turns = [KeptTurn(*row) for row in await self.rows(TURNS)]
        kept = Kept({row[0] for row in sessions}, turns)
        kept.confirm(self.testimony.promises)
        return kept

    async def nothing_is_left_open(self) -> None:
        """See that every turn is over, has one reply, and nobody holds any."""
        assert await self.rows("SELECT * FROM leases") == []
        [(turns, replies, messages)] = await self.rows(
            "SELECT (SELECT count(*) FROM turns), (SELECT count(*) FROM message_order"
            " WHERE position = 1), (SELECT count(*) FROM messages)"
        )
        assert (replies, messages) == (turns, 2 * turns)

    async def over(self) -> list[tuple[str, str]]:
        """How every turn ended, and its reply, by session and turn."""
        rows = await self.rows(
            "SELECT t.finish_reason, m.content FROM turns t"
            " JOIN messages m ON m.message_id = t.reply_message_id ORDER BY t.session_id, t.turn"
        )
        return [(row[0], row[1]) for row in rows]

    def fenced(self) -> int:
        """How often a node found that a turn had been taken from it."""
        return sum(FENCED in line for node in self.nodes for line in node.lines())

    async def stop_all(self, *, forgiven: str = "$^") -> None:
        """Stop all nodes together; none has complained of anything but what is forgiven."""
        codes = await asyncio.gather(*(node.stop() for node in self.nodes))
        assert codes == [0] * len(self.nodes)
        lines = [line for node in self.nodes for line in node.complaints()]
        assert [line for line in lines if not re.search(forgiven, line)] == []

    async def new_session(self) -> str:
        """Create a session."""
        async with self.nodes[0].http() as http:
            created: Json = (await http.post("/api/sessions", json={})).json()
        session_id: str = created["session_id"]
        return session_id

    async def tell(self, last: int = 60) -> None:
        """Print what is open, what befell the nodes, and the ends of what they have written."""
        with suppress(OSError, asyncpg.PostgresError):
            print(*await self.rows("SELECT * FROM turns WHERE ended_at IS NULL"), sep="\n")
            print(*await self.rows("SELECT * FROM leases"), sep="\n")
        for fault in self.faults:
            print(f"{fault.at:.2f} {fault.kind} of {fault.node.name}: {sorted(fault.held)}")
        for node in self.nodes:
            print(f"--- {node.name}")
            print(*node.lines()[-last:], sep="\n")


@asynccontextmanager
async def deployment(
    directory: Path,
    name: str,
    *,
    servers: Servers,
    model_url: str,
    of_first: dict[str, str] | None = None,
    **settings: str,
) -> AsyncIterator[Deployment]:
    """Run three nodes, named a, b and c; `name` makes the dice those of one test.

    `of_first` are settings of the first one alone.
    """
    print(f"FAULTS_SEED={SEED}")
    common = {
        "DATABASE_URL": servers.database_url,
        "BROKER_URL": servers.broker_url,
        "BROKER_PREFIX": servers.prefix,
        "LLM_SERVER_URL": model_url,
        "LLM_MAX_CONCURRENCY": "16",
        "LLM_COOL_DOWN_S": "0",
        "DRAIN_SECONDS": "0.5",
        "HEARTBEAT_S": "1",
        **settings,
    }
    each = {"a": common | (of_first or {}), "b": common, "c": common}
    with ExitStack() as held:
        nodes = [
            Node(name, held.enter_context(held_port()), directory=directory, settings=of_node)
            for name, of_node in each.items()
        ]
        here = Deployment(servers, nodes, Random(f"{SEED}-{name}"))
        try:
            await asyncio.gather(*(node.start() for node in here.nodes))
            yield here
        except BaseException:
            await here.tell()
            raise
        finally:
            await asyncio.gather(*(node.close() for node in here.nodes))
