"""A run: every load, every round, every contender, one after the other."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import machine
from tests.bench.contenders import CONTENDERS, Contender
from tests.bench.loads import Load
from tests.bench.measure import Record, measure
from tests.bench.processes import enough_files
from tests.bench.programs import compiled
from tests.bench.scene import Bench

_OTHER_FILES = 200
"""Files that a process has open besides its connections, and some to spare."""


@dataclass(frozen=True)
class Plan:
    """What to measure: loads, how often, and whom, by name."""

    loads: tuple[Load, ...]
    rounds: int
    contenders: tuple[str, ...]

    def steps(self) -> Iterator[tuple[Load, int, Contender]]:
        """Each measurement; contenders take turns, so that drift of the machine meets all alike."""
        for load in self.loads:
            for number in range(self.rounds):
                for name in self.contenders:
                    if name in load.contenders:
                        yield load, number, CONTENDERS[name]


@contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    """Make ready to measure; databases will be in `folder`. Raises `CannotCompile`."""
    shared = machine.cores()
    with tempfile.TemporaryDirectory(prefix="bench-programs-") as name, enough_files():
        fast_ns = machine.fastest_step_ns(shared.contender)
        yield Bench(compiled(Path(name)), shared, fast_ns, folder)


def run(plan: Plan, made: Bench, tell: Callable[[str], None]) -> list[Record]:
    """Measure all of a plan, telling line by line how it goes."""
    steps = list(plan.steps())
    records = []
    with enough_files() as files:
        for index, (load, number, contender) in enumerate(steps, 1):
            where = f"[{index}/{len(steps)}] {load.name} {contender.name}"
            if load.files + _OTHER_FILES > files:
                tell(f"{where}: left out, for only {files} files may be open (ulimit -Hn)")
                continue
            records.append(measure(made, load, contender, number))
            tell(f"{where}: {_in_a_line(records[-1])}")
    return records


_TELLING = (
    ("cpu_us_per_token", "CPU {:.1f} µs/token"),
    ("tokens_per_s", "{:,.0f} tokens/s"),
    ("first_token_p50_ms", "first token {:.2f} ms"),
    ("delay_p50_ms", "delay {:.2f} ms"),
    ("kb_per_connection", "{:.1f} KB/connection"),
    ("noise_cores", "noise {:.2f}"),
    ("speed", "speed {:.2f}"),
)


def _in_a_line(record: Record) -> str:
    told = [
        shape.format(record.figures[name]) for name, shape in _TELLING if name in record.figures
    ]
    verdict = "right" if record.right else f"WRONG: {'; '.join(record.faults)}"
    return ", ".join([*told, verdict])
