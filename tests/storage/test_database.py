"""What every database promises, whatever kind it is."""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from sqlalchemy import text

from storage.database import Database
from storage.operations import Operation, StorageError
from tests.storage.kinds import Kind, Postgres, Sqlite
from tests.storage.notes import (
    ALL,
    WITHIN_S,
    Gate,
    Mistake,
    add,
    add_and_fail,
    all_notes,
    create,
)


@pytest.fixture(params=["sqlite", "postgres"])
def kind(request: pytest.FixtureRequest, path: Path) -> Kind:
    if request.param == "sqlite":
        return Sqlite(path)
    return Postgres(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def database(kind: Kind) -> AsyncIterator[Database]:
    """An open database with a table of notes."""
    with anyio.fail_after(2 * WITHIN_S):
        async with kind.open() as database:
            await database.write(create())
            yield database


@pytest.fixture
def gate(kind: Kind) -> Iterator[Gate]:
    """Holds operations up; open at the end, so that none is left waiting."""
    gate = kind.gate()
    yield gate
    gate.open()


async def test_an_operation_that_raises_is_undone_alone(database: Database) -> None:
    await database.write(add("a"))
    mistaken = add_and_fail("b", Mistake())
    writes = [database.submit(operation) for operation in (mistaken, add("c"), add("a"))]
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(result) for result in results] == [Mistake, int, StorageError]
    assert await database.read(all_notes()) == ["a", "c"]


async def test_a_failure_without_a_waiter_is_logged_once_and_not_by_asyncio(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    await database.write(add("a"))
    failing = database.submit(add("a"))
    await asyncio.wait([failing])
    del failing
    gc.collect()
    await anyio.lowlevel.checkpoint()
    [record] = caplog.records
    assert record.name.startswith("storage.")
    assert "unique" in record.getMessage().lower()


async def test_too_many_waiting_writes_are_refused(kind: Kind) -> None:
    async with kind.open(max_waiting=2) as database:
        await database.write(create())
        writes = [database.submit(add(str(number))) for number in range(3)]
        results = await asyncio.gather(*writes, return_exceptions=True)
        assert results[:2] == [1, 1]
        assert isinstance(results[2], StorageError)
        assert await database.write(add("2"))


# Cancelling


async def test_a_write_whose_waiter_is_cancelled_is_done_whole(kind: Kind, gate: Gate) -> None:
    async with kind.open() as database:
        await database.write(create())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(database.write, gate.add("a"))
            await gate.entered()
            tasks.start_soon(database.write, add("b"))
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        gate.open()
        await database.write(add("c"))
    assert kind.stored() == ["a 1", "a 2", "b", "c"]


async def test_a_read_whose_waiter_is_cancelled_harms_no_other(
    database: Database, gate: Gate
) -> None:
    await database.write(add("a"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(database.read, gate.read_twice())
        await gate.entered()
        tasks.cancel_scope.cancel()
    gate.open()
    for _ in range(20):
        assert await database.read(all_notes()) == ["a"]


# Reading


async def test_a_reader_sees_one_moment(database: Database, gate: Gate) -> None:
    await database.write(add("a"))
    reading = asyncio.ensure_future(database.read(gate.read_twice()))
    await gate.entered()
    await database.write(add("b"))
    gate.open()
    assert await reading == (["a"], ["a"])
    assert await database.read(all_notes()) == ["a", "b"]


async def test_a_reader_does_not_wait_for_another(database: Database, gate: Gate) -> None:
    reading = asyncio.ensure_future(database.read(gate.read_twice()))
    await gate.entered()
    assert await database.read(all_notes()) == []
    gate.open()
    await reading


async def test_what_is_written_can_be_read_at_once_by_every_reader(database: Database) -> None:
    for number in range(20):
        await database.write(add(str(number)))
        assert str(number) in await database.read(all_notes())


async def test_a_reader_cannot_write(database: Database) -> None:
    for _ in range(20):
        with pytest.raises(StorageError, match=r"readonly|read-only"):
            await database.read(add("a"))
    assert await database.read(all_notes()) == []


async def test_a_read_that_fails_raises_what_went_wrong(database: Database) -> None:
    def fail() -> Operation[None]:
        yield ALL, {}
        raise Mistake

    def stumble() -> Operation[None]:
        yield text("SELECT * FROM nowhere"), {}

    with pytest.raises(Mistake):
        await database.read(fail())
    with pytest.raises(StorageError, match="nowhere"):
        await database.read(stumble())
    assert await database.read(all_notes()) == []


# Closing


async def test_what_was_queued_is_committed_before_closing(kind: Kind) -> None:
    async with kind.open() as database:
        await database.write(create())
        for number in range(500):
            database.submit(add(f"{number:04}"))
    assert len(kind.stored()) == 500


async def test_what_was_queued_is_committed_even_when_all_is_cancelled(
    kind: Kind, gate: Gate
) -> None:
    with anyio.CancelScope() as scope:
        async with kind.open() as database:
            await database.write(create())
            database.submit(gate.add("a"))
            await gate.entered()
            database.submit(add("b"))
            # Whenever it opens, the second write has to wait for the first.
            asyncio.get_running_loop().call_later(0.02, gate.open)
            scope.cancel()
            await anyio.sleep_forever()
    assert kind.stored() == ["a 1", "a 2", "b"]


@pytest.mark.parametrize("error", [Mistake, StorageError, BlockingIOError])
async def test_an_error_of_the_server_comes_out_as_it_is(
    kind: Kind, error: type[Exception]
) -> None:
    async def serve() -> None:
        async with kind.open() as database:
            database.submit(create())
            raise error("of the server")

    with pytest.raises(error, match=r"^of the server$"):
        await serve()
    assert kind.stored() == []


async def test_a_closed_database_refuses_everything(kind: Kind) -> None:
    async with kind.open() as database:
        await database.write(create())
    for refused in (database.write(add("a")), database.read(all_notes())):
        with pytest.raises(StorageError, match="closed"):
            await refused
    assert kind.stored() == []


async def test_while_closing_all_is_refused_and_what_is_under_way_finishes(
    kind: Kind, gate: Gate
) -> None:
    opened = kind.open()
    database = await opened.__aenter__()
    await database.write(create())
    reading = asyncio.ensure_future(database.read(gate.read_twice()))
    await gate.entered()
    closing = asyncio.ensure_future(opened.__aexit__(None, None, None))
    await anyio.wait_all_tasks_blocked()
    for refused in (database.read(all_notes()), database.write(add("a"))):
        with pytest.raises(StorageError, match="closed"):
            await refused
    gate.open()
    await closing
    assert await reading == ([], [])
