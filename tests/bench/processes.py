"""Processes under measurement: started, waited for, pinned, asked what they used, and ended."""

import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

STARTS_WITHIN_S = 20.0
STOPS_WITHIN_S = 30.0
_OUTPUT = "output"
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class DidNotStart(Exception):
    """A program ended, or said nothing on its port, before it could be measured."""


@dataclass(frozen=True)
class Command:
    """A program with its arguments, and the settings that it finds in its environment."""

    arguments: tuple[str, ...]
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cpu:
    """CPU time of a process in seconds; `total_s` is exact.

    The kinds are what most kernels sample with their tick: of a process that works in short bursts
    by a timer of its own they tell little.
    """

    total_s: float
    user_s: float
    system_s: float

    def since(self, before: "Cpu") -> "Cpu":
        """What was used in between, its kinds scaled to the exact total."""
        total = self.total_s - before.total_s
        user, system = self.user_s - before.user_s, self.system_s - before.system_s
        share = user / (user + system) if user + system else 0.5
        return Cpu(total, total * share, total * (1 - share))


def cpu_of(pid: int) -> Cpu:
    """CPU time of a process and its children, threads that have ended included."""
    _, *children = family(pid)
    parts = [_own_cpu(pid), *filter(None, map(_cpu_of_child, children))]
    return Cpu(
        sum(part.total_s for part in parts),
        sum(part.user_s for part in parts),
        sum(part.system_s for part in parts),
    )


def _cpu_of_child(pid: int) -> Cpu | None:
    with suppress(OSError):  # that it has just ended
        return _own_cpu(pid)
    return None


def _own_cpu(pid: int) -> Cpu:
    # clock_getcpuclockid(3): the scheduler's own count of nanoseconds. The sum over
    # /proc/PID/task/*/schedstat forgets threads that have ended, such as a connection's.
    exact = time.clock_gettime((~pid << 3) | 2)
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Cpu(exact, int(fields[11]) / _TICKS_PER_S, int(fields[12]) / _TICKS_PER_S)


def resident_kb(pid: int) -> int:
    """Resident memory of a process and its children, in KiB."""
    return sum(map(_own_resident_kb, family(pid)))


def _own_resident_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    # One that has just died has none.
    return next((int(line.split()[1]) for line in lines if line.startswith("Rss:")), 0)


def family(pid: int) -> list[int]:
    """List a process, its children and theirs."""
    children = Path(f"/proc/{pid}/task/{pid}/children")  # absent from a few kernels
    found = children.read_text().split() if children.exists() else []
    return [pid, *(each for child in found for each in family(int(child)))]


def busy_cores_s() -> float:
    """CPU seconds that everything on this machine has used."""
    line = Path("/proc/stat").read_text().partition("\n")[0]
    user, nice, system, _idle, _waiting, *interrupts = map(int, line.split()[1:])
    return (user + nice + system + sum(interrupts[:2])) / _TICKS_PER_S


def free_port() -> int:
    """A TCP port on 127.0.0.1 where nobody listens now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def enough_files() -> Iterator[int]:
    """Let programs that are started meanwhile open as many files as they may; yield how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def running(command: Command, *, port: int, directory: Path, cores: Sequence[int]) -> Iterator[int]:
    """Run a program until it listens; yield its process id; stop it at the end.

    It runs in `directory`, where a file keeps what it says, on these cores alone (all, if there
    are none). Raises `DidNotStart`.
    """
    with (directory / _OUTPUT).open("ab") as output:
        process = subprocess.Popen(
            command.arguments,
            cwd=directory,  # whose `.env`, if any, is the one that is read
            env={"PATH": os.environ["PATH"], **command.settings},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        pin(process.pid, cores)
        if not _listens(process, port):
            raise DidNotStart(f"{command.arguments[0]} does not listen")
        yield process.pid
    finally:
        stop(process)


def pin(pid: int, cores: Sequence[int]) -> None:
    """Keep a process, and the threads that it will start, on these cores."""
    if cores:
        os.sched_setaffinity(pid, cores)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process of ours, politely at first."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOPS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def last_words(directory: Path, *, chars: int = 500) -> str:
    """The end of what the program that ran in a directory has said."""
    file = directory / _OUTPUT
    return file.read_text(errors="replace")[-chars:].strip() if file.exists() else ""


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    until = time.monotonic() + STARTS_WITHIN_S
    while process.poll() is None and time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return True
    return False
