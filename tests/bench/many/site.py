"""What runs while many nodes are measured: two servers, an upstream, gateways, clients."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench.contenders import CALLS_AT_ONCE, CONTENDERS, DATABASE, ROOT
from tests.bench.loadgen import Clients, clients
from tests.bench.loads import GATEWAY, Load
from tests.bench.many.counted import pid_of, redis_version
from tests.bench.processes import Command, family, free_port, pin, running
from tests.bench.scene import WARM_SLOT, Bench
from tests.servers.postgres import PostgresServer, fresh_database, postgres_server
from tests.servers.redis import RedisServer, redis_server

FRAMES = CONTENDERS[GATEWAY]
NODES = ("here", "there")
"""How the gateways are called: clients are on the first one, further tabs on the last one."""
REDIS, POSTGRES, UPSTREAM = "redis", "postgres", "upstream"


@dataclass(frozen=True)
class Servers:
    """What all measurements of many nodes share: one PostgreSQL, which waits for the disk."""

    bench: Bench
    postgres: PostgresServer

    def versions(self) -> dict[str, str]:
        """Name the servers."""
        [postgres] = self.postgres.sql("SHOW server_version")
        with redis_server() as redis:
            return {"postgresql": postgres, "redis": redis_version(redis.url)}

    @contextmanager
    def database(self, settings: Mapping[str, str] | None = None) -> Iterator[str]:
        """Create an empty database; `settings` are the server's, for this database alone."""
        with fresh_database(self.postgres.url()) as url:
            name = url.rpartition("/")[2]
            for key, value in (settings or {}).items():
                self.postgres.sql(f"ALTER DATABASE {name} SET {key} = '{value}'")
            yield url

    @contextmanager
    def redis(self) -> Iterator[RedisServer]:
        """Run an empty Redis."""
        with redis_server() as server:
            pin(pid_of(server.url), self.bench.cores.load)
            yield server


@contextmanager
def servers(bench: Bench) -> Iterator[Servers]:
    """Run what measurements share; raises `RuntimeError` where there is no PostgreSQL."""
    with postgres_server(durable=True) as postgres:
        for pid in family(postgres.pid):
            with suppress(ProcessLookupError):  # one that only said that the server is ready
                pin(pid, bench.cores.load)
        yield Servers(bench, postgres)


@dataclass(frozen=True)
class Site:
    """Some gateways that run, ready for clients; alone, one has neither `redis` nor a server."""

    bench: Bench
    directory: Path
    stamps: Path
    ports: tuple[int, ...]
    pids: Mapping[str, int]
    database: str
    redis: str | None = None

    @contextmanager
    def clients(self, load: Load, *, first_slot: int = 0, on: int = 0) -> Iterator[Clients]:
        """Connect the clients of a load to a node, their further tabs to the last one."""
        with clients(
            self.bench.programs.loadgen,
            FRAMES,
            load,
            port=self.ports[on],
            stamps=self.stamps,
            cores=self.bench.cores.load,
            first_slot=first_slot,
            tabs_port=self.ports[-1] if load.tabs else None,
        ) as connected:
            yield connected

    def warm_up(self) -> None:
        """Let each node answer a few clients, so that nothing happens for the first time later."""
        few = Load(name="warm", says="", clients=8, turns=4, tokens=64, interval_us=0)
        for node in range(len(self.ports)):
            slots = WARM_SLOT + 100 * node
            for load in (few, replace(few, turns=1, tabs=1)):
                with self.clients(load, first_slot=slots, on=node) as connected:
                    connected.go()
                    connected.result()
                slots += 50


@contextmanager
def embedded(bench: Bench, directory: Path) -> Iterator[Site]:
    """Run one gateway that is alone, on a file."""
    with _staged(bench, directory, [{"DATABASE_URL": DATABASE}]) as site:
        yield site


@contextmanager
def shared(
    given: Servers,
    directory: Path,
    *,
    nodes: int,
    database: Mapping[str, str] | None = None,
    upstream_options: tuple[str, ...] = (),
) -> Iterator[Site]:
    """Run some nodes on an empty database and an empty Redis.

    Raises `DidNotStart`. `database` is what is set for that database alone.
    """
    with given.database(database) as url, given.redis() as redis:
        settings = [
            {"DATABASE_URL": url, "BROKER_URL": redis.url, "NODE_NAME": name}
            for name in NODES[:nodes]
        ]
        with _staged(given.bench, directory, settings, upstream_options) as site:
            pids = {REDIS: pid_of(redis.url), POSTGRES: given.postgres.pid}
            yield replace(site, pids={**site.pids, **pids}, database=url, redis=redis.url)


@contextmanager
def _staged(
    bench: Bench,
    directory: Path,
    nodes: list[dict[str, str]],
    upstream_options: tuple[str, ...] = (),
) -> Iterator[Site]:
    beside = directory / UPSTREAM
    beside.mkdir()
    upstream_port, stamps = free_port(), beside / "stamps"
    program = (str(bench.programs.upstream), str(upstream_port), str(stamps), *upstream_options)
    pids: dict[str, int] = {}
    ports = []
    with ExitStack() as stack:
        upstream = running(
            Command(program), port=upstream_port, directory=beside, cores=bench.cores.load
        )
        pids[UPSTREAM] = stack.enter_context(upstream)
        for name, settings in zip(NODES, nodes, strict=False):
            (directory / name).mkdir()
            ports.append(free_port())
            command = _gateway(ports[-1], upstream_port, settings)
            gateway = running(
                command, port=ports[-1], directory=directory / name, cores=bench.cores.contender
            )
            pids[name] = stack.enter_context(gateway)
        file = str(directory / NODES[0] / DATABASE)
        yield Site(bench, directory, stamps, tuple(ports), pids, file)


def _gateway(port: int, upstream_port: int, settings: Mapping[str, str]) -> Command:
    common = {
        "PYTHONPATH": str(ROOT),
        "PORT": str(port),
        "LLM_SERVER_URL": f"http://127.0.0.1:{upstream_port}",
        "LLM_MAX_CONCURRENCY": str(CALLS_AT_ONCE),
    }
    return Command((sys.executable, "-m", "gateway"), {**common, **settings})
