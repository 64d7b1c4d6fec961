"""The load generator as a process: it connects, waits for a word, runs, and tells what it saw."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tests.bench.contenders import Contender
from tests.bench.loads import Load
from tests.bench.processes import pin

SOURCES = 200
"""How many addresses of 127.0.0.0/8 the clients come from."""

Said = dict[str, Any]


class GaveUp(Exception):
    """The load generator ended without a result."""


class Clients:
    """The clients of one load, connected and waiting for the word."""

    def __init__(self, process: subprocess.Popen[str], connected: Said) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.pid = process.pid
        self.connected = connected
        self.output: IO[str] = process.stdout
        self._input: IO[str] = process.stdin

    def go(self) -> None:
        """Give the word."""
        self._input.write("go\n")
        self._input.flush()

    def result(self) -> Said:
        """Wait for what the clients saw; raises `GaveUp`."""
        return _line(self.output)


@contextmanager
def clients(
    program: Path,
    contender: Contender,
    load: Load,
    *,
    port: int,
    stamps: Path,
    cores: tuple[int, ...],
    first_slot: int = 0,
    tabs_port: int | None = None,
) -> Iterator[Clients]:
    """Connect the clients of a load to a port, their further tabs to `tabs_port` if there is one.

    Raises `GaveUp`.
    """
    options = {
        "port": port,
        "conns": load.clients,
        "turns": load.turns,
        "tokens": load.tokens,
        "us": load.interval_us,
        "subs": load.tabs,
        "sub-port": tabs_port or 0,
        "churn-per-s": load.churn_per_s,
        "churn-ms": load.churn_s * 1000,
        "slot0": first_slot,
        "stamps": stamps,
        "sources": SOURCES,
        "timeout": load.within_s,
        **contender.speaks,
    }
    arguments = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    transport = ["--sse"] if contender.over_http else []
    with subprocess.Popen(
        [str(program), *transport, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            pin(process.pid, cores)
            assert process.stdout is not None
            yield Clients(process, _line(process.stdout))
        finally:
            process.kill()


def _line(output: IO[str]) -> Said:
    if not (line := output.readline()):
        raise GaveUp("the load generator ended without a result")
    said: Said = json.loads(line)
    return said
