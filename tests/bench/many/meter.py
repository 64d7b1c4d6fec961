"""CPU time of several processes at once, and how fast their cores were meanwhile."""

import select
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

from tests.bench.machine import Cores, on, step_ns
from tests.bench.processes import busy_cores_s, cpu_of

_SAMPLE_S = 0.05


@dataclass(frozen=True)
class Used:
    """CPU seconds from some beginning on: of each process, of us, of the whole machine."""

    at_s: float
    cpu_s: Mapping[str, float]
    ours_s: float
    machine_s: float

    def since(self, before: "Used") -> "Used":
        """What was used in between; `at_s` becomes how long it was."""
        return Used(
            self.at_s - before.at_s,
            {name: cpu - before.cpu_s[name] for name, cpu in self.cpu_s.items()},
            self.ours_s - before.ours_s,
            self.machine_s - before.machine_s,
        )

    def noise_cores(self, others_s: float = 0) -> float:
        """How many cores were busy with what has nothing to do with the measurement."""
        known = sum(self.cpu_s.values()) + self.ours_s + others_s
        return max(0.0, (self.machine_s - known) / self.at_s)


def used(pids: Mapping[str, int]) -> Used:
    """What has been used until now; of a process, with all its children."""
    cpu_s = {name: cpu_of(pid).total_s for name, pid in pids.items()}
    return Used(time.monotonic(), cpu_s, time.process_time(), busy_cores_s())


@dataclass(frozen=True)
class Speed:
    """How fast the cores were, 1 being full speed: that of gateways, that of everything else."""

    gateways: float
    others: float

    def of(self, name: str, gateways: tuple[str, ...]) -> float:
        """The speed that a process had."""
        return self.gateways if name in gateways else self.others


def speed_while(output: IO[Any] | None, cores: Cores, fast_ns: float, *, for_s: float = 0) -> Speed:
    """Wait until there is something to read, or for so long; return the mean speeds."""
    samples: list[tuple[float, float]] = []
    until = time.monotonic() + for_s
    while not samples or not _over(output, until):
        samples.append((_speed(cores.contender, fast_ns), _speed(cores.load, fast_ns)))
    return Speed(*(statistics.fmean(each) for each in zip(*samples, strict=True)))


def _over(output: IO[Any] | None, until: float) -> bool:
    if output is not None:
        return bool(select.select([output], [], [], _SAMPLE_S)[0])
    time.sleep(min(_SAMPLE_S, max(0.0, until - time.monotonic())))
    return time.monotonic() >= until


def _speed(core: tuple[int, ...], fast_ns: float) -> float:
    with on(core):
        return fast_ns / step_ns()
