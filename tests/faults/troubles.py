"""Troubles of the database that come and go: a full disk, a lock, a broken file, one moved away."""

import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from storage.sqlite_file import SqliteDatabase
from storage.trouble import TROUBLE_LASTS_S
from tests.gateway.harness import WITHIN_S, Gateway

DISK_BYTES = 4 * 1024 * 1024
PAGE = 4_096


@contextmanager
def disk(at: Path, *, options: str = f"size={DISK_BYTES}") -> Iterator[Path]:
    """A real file system of a few megabytes, where this machine lets us have one."""
    at.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(at)]
    try:
        subprocess.run(mount, check=True, capture_output=True, timeout=WITHIN_S)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine does not let us mount a file system")
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True, timeout=WITHIN_S)


def fill(directory: Path) -> Path:
    """Leave not a byte free; return the file that takes the room."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65_536, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
    return ballast


def _writer(gateway: Gateway) -> Any:
    database = gateway.house.database
    assert isinstance(database, SqliteDatabase)
    return database._writer


async def _set_busy_timeout(gateway: Gateway, ms: int) -> None:
    writer = _writer(gateway)
    await writer.run(lambda c: c.execute(f"PRAGMA busy_timeout = {ms}").close())


@asynccontextmanager
async def full_disk(gateway: Gateway) -> AsyncIterator[None]:
    """The disk is full to the brim; needs a disk of one's own."""
    ballast = fill(gateway.database.parent)
    try:
        yield
    finally:
        ballast.unlink()


@asynccontextmanager
async def locked(gateway: Gateway) -> AsyncIterator[None]:
    """Another process holds the lock for writing, and longer than anybody waits for it."""
    await _set_busy_timeout(gateway, 50)
    with closing(sqlite3.connect(gateway.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")


@asynccontextmanager
async def corrupt(gateway: Gateway) -> AsyncIterator[None]:
    """Every page of the file is nonsense, but for the header.

    A connection that has seen it keeps what it saw: it does not read restored pages again.
    """
    with closing(sqlite3.connect(gateway.database)) as other:
        # Else the pages would be read from the write-ahead log.
        [(busy, _, _)] = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        assert not busy
        good = gateway.database.read_bytes()
        _overwrite(gateway.database, good[:100] + b"\xaa" * (len(good) - 100))
        try:
            yield
        finally:
            _overwrite(gateway.database, good)


@asynccontextmanager
async def read_only(gateway: Gateway) -> AsyncIterator[None]:
    """The database may be read only."""
    writer = _writer(gateway)
    await writer.run(lambda c: c.execute("PRAGMA query_only = ON").close())
    try:
        yield
    finally:
        await writer.run(lambda c: c.execute("PRAGMA query_only = OFF").close())


def _overwrite(path: Path, data: bytes) -> None:
    with path.open("r+b") as file:
        file.write(data)


async def healthy(gateway: Gateway, expected: bool) -> None:
    """Wait, not long, until the health says so of the database."""
    with anyio.fail_after(TROUBLE_LASTS_S + 3.0 if expected else 1.0):
        while True:
            health = (await gateway.http.get("/api/health")).json()
            if health["database_connected"] is expected:
                return
            await anyio.sleep(0.02)
