"""Whoever wants to know how commits go is told of each, on either kind of database."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from storage.database import Database, open_database
from storage.operations import Operation, StorageError
from tests.storage.notes import add, all_notes, create

Told = list[tuple[int, int]]


def impossible() -> Operation[None]:
    """Write where there is nothing to write to."""
    yield text("INSERT INTO nowhere VALUES (1)"), {}


@asynccontextmanager
async def watched(where: str | Path) -> AsyncIterator[tuple[Database, Told]]:
    """Open a database; beside it, of each commit how many writes it had, and how many failed."""
    told: Told = []

    def committed(seconds: float, *, writes: int, failed: int) -> None:
        assert seconds > 0
        told.append((writes, failed))

    async with open_database(where, committed=committed) as database:
        await database.write(create())
        yield database, told


async def test_writes_to_a_file_are_told_by_the_batch_and_reads_not(path: Path) -> None:
    async with watched(path) as (database, told):
        await asyncio.gather(*(database.submit(add(note)) for note in "abc"))
        assert await database.read(all_notes()) == ["a", "b", "c"]
    assert told == [(1, 0), (3, 0)]


async def test_writes_to_a_server_are_told_one_by_one_and_reads_not(postgres_url: str) -> None:
    async with watched(postgres_url) as (database, told):
        await asyncio.gather(*(database.write(add(note)) for note in "abc"))
        assert await database.read(all_notes()) == ["a", "b", "c"]
    assert told == [(1, 0)] * 4


async def test_a_write_that_fails_is_told_as_that(path: Path) -> None:
    async with watched(path) as (database, told):
        with pytest.raises(StorageError):
            await database.write(impossible())
    assert told[-1] == (1, 1)
