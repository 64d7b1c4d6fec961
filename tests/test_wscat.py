"""What the README tells a newcomer to do by hand: wscat from npm, on a terminal, against the
real program.
"""

import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.settings import Settings

WITHIN_S = 60.0
"""Long enough for npx to fetch wscat; everything else takes a second or two."""

COLUMNS = 2_000
COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

Json = dict[str, Any]
OpenWscat = Callable[[str], "Wscat"]

pytestmark = [
    pytest.mark.wscat,
    pytest.mark.skipif(
        not shutil.which("wscat") and not shutil.which("npx"),
        reason="neither wscat nor npx is installed; Node.js brings npx",
    ),
]


class Output:
    """What a program prints, read from a file descriptor while it runs."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._printed = b""

    @property
    def text(self) -> str:
        """All that was printed so far, without colours and movements of the terminal's cursor."""
        return COLOUR.sub("", self._printed.decode(errors="replace"))

    def until(self, pattern: str, *, times: int = 1) -> "re.Match[str]":
        """Wait until a pattern was printed so many times; return the last of them."""
        deadline = time.monotonic() + WITHIN_S
        while len(found := list(re.finditer(pattern, self.text))) < times:
            left_s = max(deadline - time.monotonic(), 0)
            readable, _, _ = select.select([self._fd], [], [], left_s)
            more = self._read() if readable else b""
            assert more, f"no {pattern!r} in what was printed:\n{self.text}"
            self._printed += more
        return found[-1]

    def _read(self) -> bytes:
        try:
            return os.read(self._fd, 65_536)
        except OSError:  # EIO: nobody holds the other end of the terminal any more
            return b""


class Wscat:
    """One wscat and the terminal it runs on."""

    def __init__(self, process: subprocess.Popen[bytes], terminal: int) -> None:
        self._process = process
        self._terminal = terminal
        self.output = Output(terminal)

    def type(self, line: str) -> None:
        """Type a line and press Enter."""
        os.write(self._terminal, f"{line}\r".encode())

    def kill(self) -> None:
        """End it at once, and npx with it: the server hears no goodbye."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    @property
    def frames(self) -> list[Json]:
        """The frames that it has shown as a whole."""
        shown = re.findall(r"< ({.*})\r\n", self.output.text)
        return [json.loads(frame) for frame in shown]

    @property
    def reply(self) -> str:
        """The text of all tokens."""
        return "".join(frame["content"] for frame in self.frames if frame["type"] == "token")


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Host and port of a gateway: the real program, with its simulated model."""
    others = {
        name: v for name, v in os.environ.items() if name.lower() not in Settings.model_fields
    }
    settings = {"PORT": "0", "DATABASE_URL": "chat.db", "DRAIN_SECONDS": "0"}
    with subprocess.Popen(
        [sys.executable, "-m", "gateway"],
        cwd=tmp_path,
        env={**others, **settings},
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        try:
            log = Output(process.stderr.fileno())
            yield log.until(r"listening on http://(\S+)\n")[1]
        finally:
            process.terminate()
        assert process.wait(WITHIN_S) == 0


@pytest.fixture
def open_wscat(address: str) -> Iterator[OpenWscat]:
    """Opens wscats on `/ws` with the given query, and ends them."""
    with ExitStack() as stack:
        yield lambda query: stack.enter_context(_wscat(f"ws://{address}/ws{query}"))


@contextmanager
def _wscat(url: str) -> Iterator[Wscat]:
    command = ["wscat"] if shutil.which("wscat") else ["npx", "--yes", "wscat"]
    terminal, far_end = pty.openpty()
    # As wide as that, nothing wraps.
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    with subprocess.Popen(
        [*command, "-c", url],
        stdin=far_end,
        stdout=far_end,
        stderr=far_end,
        env={**os.environ, "TERM": "xterm"},
        start_new_session=True,
    ) as process:
        os.close(far_end)
        wscat = Wscat(process, terminal)
        try:
            wscat.output.until(r'"type":"ready".*\n')
            yield wscat
        finally:
            if process.poll() is None:
                wscat.kill()
            os.close(terminal)


def test_a_typed_message_is_answered_token_by_token(open_wscat: OpenWscat) -> None:
    wscat = open_wscat("")
    wscat.type("안녕하세요")
    wscat.output.until(r'"type":"complete".*\n')
    kinds = [frame["type"] for frame in wscat.frames]
    tokens = kinds.count("token")
    assert kinds == ["ready", "accepted", "start", *["token"] * tokens, "complete"]
    assert tokens > 10
    assert wscat.reply.startswith("[모의 응답] ")


def test_shorthands_are_typed_as_the_readme_has_them(open_wscat: OpenWscat) -> None:
    wscat = open_wscat("")
    wscat.type("/ping")
    wscat.output.until(r'"type":"pong".*\n')
    wscat.type("/help")
    wscat.output.until(r'"type":"help".*\n')
    wscat.type("hello #sim pieces=1#")
    wscat.output.until(r'"type":"complete".*\n')
    wscat.type("/history 1")
    wscat.output.until(r'"type":"history".*\n')
    [message] = wscat.frames[-1]["messages"]
    assert message["content"] == wscat.reply


def test_a_killed_wscat_goes_on_where_it_left_off(open_wscat: OpenWscat, address: str) -> None:
    first = open_wscat("")
    first.type("대화란 무엇인가요? #sim pieces=80 interval_ms=20#")
    first.output.until(r'"type":"token".*\n', times=5)
    first.kill()
    session_id, last_id = first.frames[0]["session_id"], first.frames[-1]["id"]

    second = open_wscat(f"?session_id={session_id}&after={last_id}")
    second.output.until(r'"type":"complete".*\n')
    ready = second.frames[0]
    assert (ready["resumed"], ready["cursor"]) == (True, last_id)
    url = f"http://{address}/api/sessions/{session_id}/messages"
    stored = httpx.get(url, trust_env=False).json()["messages"]
    assert first.reply + second.reply == stored[1]["content"]
