"""Programs under test: started, waited for by what they say, and always ended.

    async with gateway(directory, LLM_SERVER_URL=model.url) as program:
        ...                                  # it listens at program.url
        assert await program.stop() == 0

Nothing here waits for time to pass: a program is ready when it says so, and over when its output
and its exit code are there.
"""

import asyncio
import os
import re
import signal
import sys
import sysconfig
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

MODULE = (sys.executable, "-m", "gateway")
SCRIPT = (str(Path(sysconfig.get_path("scripts")) / "midm-gateway"),)

WITHIN_S = 20.0
"""No program takes so long to start or to stop unless something is broken."""

_LISTENS = r"listen(?:ing|s) on (http://\S+:\d+)"


class Program:
    """A process, and the lines it has written so far to each of its streams."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.out: list[str] = []
        self.err: list[str] = []
        self.url = ""
        self._process = process
        self._news = asyncio.Condition()
        self._streams_open = 2

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def complaints(self) -> list[str]:
        """What it wrote that no healthy program writes: tracebacks, warnings, errors."""
        sign = re.compile(r"Traceback|Warning|\bERROR\b|\bCRITICAL\b|Exception")
        return [line for line in self.out + self.err if sign.search(line)]

    async def said(self, pattern: str) -> re.Match[str]:
        """Wait until a line matches; a program that ends without saying it fails the test."""
        async with asyncio.timeout(WITHIN_S), self._news:
            while (found := self._find(pattern)) is None:
                assert self._streams_open, f"it ended without {pattern!r}: {self.out + self.err}"
                await self._news.wait()
        return found

    async def listens(self) -> str:
        """Wait until it listens; return its URL."""
        self.url = (await self.said(_LISTENS))[1]
        return self.url

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Tell it to stop; return its exit code."""
        self.send(number)
        return await self.ended()

    async def ended(self) -> int:
        """Wait until it has ended and all it wrote is here; return its exit code."""
        async with asyncio.timeout(WITHIN_S):
            async with self._news:
                await self._news.wait_for(lambda: not self._streams_open)
            return await self._process.wait()

    async def hear(self, stream: asyncio.StreamReader, lines: list[str]) -> None:
        """Collect the lines of one stream until it ends."""
        async for line in stream:
            async with self._news:
                lines.append(line.decode().rstrip("\n"))
                self._news.notify_all()
        async with self._news:
            self._streams_open -= 1
            self._news.notify_all()

    def _find(self, pattern: str) -> re.Match[str] | None:
        matches = (re.search(pattern, line) for line in self.out + self.err)
        return next(filter(None, matches), None)


@asynccontextmanager
async def running(*command: str, directory: Path, **settings: str) -> AsyncIterator[Program]:
    """Run a command in a directory with these settings and no others; kill it at the end."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=directory,  # whose `.env`, if any, is the one that is read
        env={"PATH": os.environ["PATH"], "PYTHONWARNINGS": "error", **settings},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    program = Program(process)
    hearing = (
        asyncio.create_task(program.hear(process.stdout, program.out)),
        asyncio.create_task(program.hear(process.stderr, program.err)),
    )
    try:
        yield program
    finally:
        if process.returncode is None:
            process.kill()
        await asyncio.gather(*hearing)
        await process.wait()


@asynccontextmanager
async def gateway(directory: Path, **settings: str) -> AsyncIterator[Program]:
    """Run a gateway on a free port, its database in `directory`, until it listens."""
    defaults = {"PORT": "0", "DATABASE_URL": "chat.db", "LLM_COOL_DOWN_S": "0"}
    async with running(*MODULE, directory=directory, **(defaults | settings)) as program:
        await program.listens()
        yield program


@asynccontextmanager
async def simulator(
    directory: Path, *, interval_ms: float, first_token_ms: float = 0
) -> AsyncIterator[Program]:
    """Run the simulated model server on a free port, until it listens."""
    pace = (f"--interval-ms={interval_ms}", f"--first-token-ms={first_token_ms}")
    async with running(*MODULE, "simulate", "--port=0", *pace, directory=directory) as program:
        await program.listens()
        yield program
