"""What runs during a measurement: an upstream, a contender, and clients."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench.contenders import Contender, Place
from tests.bench.loadgen import Clients, clients
from tests.bench.loads import Load
from tests.bench.machine import Cores
from tests.bench.processes import Command, free_port, running
from tests.bench.programs import Programs

WARM_SLOT = 9_000
"""The clients that warm a contender up are numbered from here, so that nobody takes their text."""


@dataclass(frozen=True)
class Bench:
    """What every measurement of a run shares; `fast_ns` is a step of Python at full speed."""

    programs: Programs
    cores: Cores
    fast_ns: float
    folder: Path


@dataclass(frozen=True)
class Scene:
    """A contender that runs, ready for clients; without one, `pid` is None."""

    bench: Bench
    contender: Contender
    upstream_pid: int
    pid: int | None
    port: int
    stamps: Path

    @contextmanager
    def clients(self, load: Load, first_slot: int = 0) -> Iterator[Clients]:
        """Connect the clients of a load."""
        with clients(
            self.bench.programs.loadgen,
            self.contender,
            load,
            port=self.port,
            stamps=self.stamps,
            cores=self.bench.cores.load,
            first_slot=first_slot,
        ) as connected:
            yield connected

    def warm_up(self, load: Load) -> None:
        """Let a few clients take a few turns, so that nothing happens for the first time later."""
        few = replace(
            load,
            clients=min(load.clients, 8),
            turns=4,
            tokens=64,
            interval_us=0,
            tabs=0,
            churn_per_s=0,
        )
        with self.clients(few, WARM_SLOT) as connected:
            connected.go()
            connected.result()


@contextmanager
def staged(bench: Bench, contender: Contender, directory: Path) -> Iterator[Scene]:
    """Run an upstream and a contender, the latter's files in `directory`, until they listen.

    Raises `DidNotStart`.
    """
    beside = directory / "upstream"
    beside.mkdir()
    port = free_port()
    stamps = beside / "stamps"
    program = (str(bench.programs.upstream), str(port), str(stamps), *contender.upstream_options)
    with ExitStack() as stack:
        upstream_pid = stack.enter_context(
            running(Command(program), port=port, directory=beside, cores=bench.cores.load)
        )
        if contender.command is None:
            yield Scene(bench, contender, upstream_pid, None, port, stamps)
            return
        place = Place(directory, free_port(), port, bench.programs)
        command = contender.command(place)
        pid = stack.enter_context(
            running(command, port=place.port, directory=directory, cores=bench.cores.contender)
        )
        yield Scene(bench, contender, upstream_pid, pid, place.port, stamps)
