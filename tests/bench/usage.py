"""What a stretch of a measurement cost: CPU time of everybody concerned."""

import select
import statistics
import time
from dataclasses import dataclass
from typing import IO

from tests.bench.machine import on, step_ns
from tests.bench.processes import Cpu, busy_cores_s, cpu_of
from tests.bench.scene import Scene

_SAMPLE_S = 0.05
_NOTHING = Cpu(0, 0, 0)


@dataclass(frozen=True)
class Usage:
    """CPU seconds from some beginning on: of the contender, the upstream, us, the whole machine."""

    at_s: float
    contender: Cpu
    upstream_s: float
    ours_s: float
    machine_s: float

    def since(self, before: "Usage") -> "Usage":
        """What was used in between; `at_s` becomes how long it was."""
        return Usage(
            self.at_s - before.at_s,
            self.contender.since(before.contender),
            self.upstream_s - before.upstream_s,
            self.ours_s - before.ours_s,
            self.machine_s - before.machine_s,
        )

    def noise_cores(self, clients_s: float) -> float:
        """How many cores were busy with what has nothing to do with the measurement."""
        known = self.contender.total_s + self.upstream_s + self.ours_s + clients_s
        return max(0.0, (self.machine_s - known) / self.at_s)


def usage(scene: Scene) -> Usage:
    """What has been used until now."""
    return Usage(
        time.monotonic(),
        cpu_of(scene.pid) if scene.pid else _NOTHING,
        cpu_of(scene.upstream_pid).total_s,
        time.process_time(),
        busy_cores_s(),
    )


def speed_until(output: IO[str], scene: Scene) -> float:
    """Wait until there is something to read; return the mean speed of the contender's core.

    1 is full speed.
    """
    speeds = []
    with on(scene.bench.cores.contender):
        while not select.select([output], [], [], _SAMPLE_S)[0]:
            speeds.append(scene.bench.fast_ns / step_ns())
        # A load may be over before the first sample.
        return statistics.fmean(speeds or [scene.bench.fast_ns / step_ns()])
