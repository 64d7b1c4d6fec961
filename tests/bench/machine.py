"""The machine: what it is, how fast its core is now, how long it takes to make a write last."""

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.bench.processes import busy_cores_s

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "uvicorn",
    "starlette",
    "uvloop",
    "httptools",
    "websockets",
    "httpx",
    "aiosqlite",
    "asyncpg",
    "redis",
)
_STEPS = 2_000


@dataclass(frozen=True)
class Cores:
    """Who runs where: the contender on a core of its own, if there are two."""

    contender: tuple[int, ...]
    load: tuple[int, ...]


def cores() -> Cores:
    """Share out the cores that we may use."""
    mine = sorted(os.sched_getaffinity(0))
    return Cores((mine[-1],), (mine[0],)) if len(mine) > 1 else Cores((), ())


@contextmanager
def on(chosen: Sequence[int]) -> Iterator[None]:
    """Run on these cores meanwhile; on any, if there are none."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, chosen or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def step_ns() -> float:
    """CPU nanoseconds of one step of a fixed piece of Python, a quarter of a millisecond long.

    On a shared machine a core's speed flips by almost two with what its hyperthread sibling does,
    and CPU time stretches with it. Measured on the contender's own core while it runs, this takes
    that out again.
    """
    begin = time.thread_time_ns()
    table: dict[int, int] = {}
    for index in range(_STEPS):
        table[index & 1023] = table.get(index & 511, 0) + index % 7
    return (time.thread_time_ns() - begin) / _STEPS


def fastest_step_ns(chosen: Sequence[int]) -> float:
    """The best of many steps on a core: what counts as its full speed in this run."""
    with on(chosen):
        return min(step_ns() for _ in range(400))


def wait_until_calm(cores: float, *, within_s: float) -> bool:
    """Wait until other programs use fewer cores for a second; False if they do not in time."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        before = busy_cores_s()
        time.sleep(1.0)
        if busy_cores_s() - before < cores:
            return True
    return False


def fsync_ms(directory: Path, times: int = 50) -> float:
    """Median milliseconds to write 4 KiB to a file in a directory and have them on the disk."""
    took = []
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        for _ in range(times):
            begin = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            took.append((time.perf_counter() - begin) * 1000)
    return statistics.median(took)


def description() -> dict[str, object]:
    """What is measured on: machine and versions."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def commit(root: Path = ROOT) -> str | None:
    """The commit that is checked out, read from the files of git, or None."""
    git = root / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        name = head.removeprefix("ref: ")
        if name == head:
            return head
        if (git / name).exists():
            return (git / name).read_text().strip()
        packed = (git / "packed-refs").read_text().splitlines()
    except OSError:
        return None
    return next((line.split()[0] for line in packed if line.endswith(f" {name}")), None)


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
