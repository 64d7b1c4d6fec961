"""A terminal to type into, and to look at: the program writes to a pseudo-terminal, and what it
writes is drawn on a screen as a real terminal would.
"""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyte

WITHIN_S = 20.0

ENTER, ALT_ENTER, CTRL_C, CTRL_D, BACKSPACE, UP = "\r", "\x1b\r", "\x03", "\x04", "\x7f", "\x1b[A"


class Terminal:
    """A program on a terminal of its own; `shows` waits for what the screen, or its past, has."""

    def __init__(self, process: "subprocess.Popen[bytes]", end: int, size: tuple[int, int]) -> None:
        self.process = process
        self._end = end
        self.raw = b""
        self._screen = _Screen(end, size)
        self._stream = pyte.ByteStream(self._screen)

    @property
    def text(self) -> str:
        """All lines, those that have scrolled away first."""
        past = ["".join(row[x].data for x in sorted(row)) for row in self._screen.history.top]
        # The second cell of a wide character holds nothing.
        now = [
            "".join(row[x].data for x in range(self._screen.columns))
            for row in (self._screen.buffer[y] for y in range(self._screen.lines))
        ]
        return "\n".join(line.rstrip() for line in (*past, *now)).rstrip()

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._end, keys.encode())

    def shows(self, pattern: str) -> "re.Match[str]":
        """Wait until a pattern is to be seen."""
        deadline = time.monotonic() + WITHIN_S
        while (found := re.search(pattern, self.text, re.MULTILINE | re.DOTALL)) is None:
            assert self._read(deadline), f"no {pattern!r} on the terminal:\n{self.text}"
        return found

    def ended(self) -> int:
        """Wait until the program has ended; return its exit code."""
        deadline = time.monotonic() + WITHIN_S
        while self._read(deadline):
            pass
        return self.process.wait(WITHIN_S)

    def _read(self, deadline: float) -> bool:
        readable, _, _ = select.select([self._end], [], [], max(deadline - time.monotonic(), 0))
        try:
            more = os.read(self._end, 65_536) if readable else b""
        except OSError:  # EIO: nobody holds the other end any more
            more = b""
        self.raw += more
        self._stream.feed(more)
        return bool(more)


class _Screen(pyte.HistoryScreen):
    def __init__(self, end: int, size: tuple[int, int]) -> None:
        self._keyboard = end
        super().__init__(*size, history=10_000, ratio=0.5)

    def write_process_input(self, data: str) -> None:
        """Answer a program that asks where the cursor is."""
        os.write(self._keyboard, data.encode())


@contextmanager
def terminal(
    *command: str,
    directory: Path,
    size: tuple[int, int] = (100, 30),
    stdout: int | None = None,
    **settings: str,
) -> Iterator[Terminal]:
    """Run a command on a terminal with so many columns and lines; kill it at the end."""
    end, far_end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    environment = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", "LANG": "C.UTF-8"}
    with subprocess.Popen(
        command,
        cwd=directory,
        stdin=far_end,
        stdout=far_end if stdout is None else stdout,
        stderr=far_end,
        env={**environment, "PYTHONWARNINGS": "error", **settings},
        start_new_session=True,
    ) as process:
        os.close(far_end)
        try:
            yield Terminal(process, end, size)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            os.close(end)
