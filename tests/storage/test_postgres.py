"""What only a server can do to a database: go away, come back, hang, refuse."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import text

from storage.operations import MaybeStored, Operation, StorageError
from storage.postgres import PostgresDatabase, open_postgres
from storage.postgres_worker import Patience
from tests.servers.postgres import PostgresServer, sql
from tests.storage.notes import (
    WITHIN_S,
    Mistake,
    ServerGate,
    add,
    add_and_fail,
    all_notes,
    create,
)

ROOT = Path(__file__).parents[2]
SHORT = Patience(connect_s=0.3, wait_s=1.0, operation_s=0.3, close_s=0.5)


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[PostgresDatabase]:
    """An open database with a table of notes."""
    with anyio.fail_after(2 * WITHIN_S):
        async with open_postgres(postgres_url) as database:
            await database.write(create())
            yield database


@pytest.fixture
def gate() -> Iterator[ServerGate]:
    gate = ServerGate()
    yield gate
    gate.open()


def ask(statement: str) -> Operation[list[Any]]:
    """Run a statement; return the first column of its rows."""
    rows: Any = yield text(statement), {}
    return [row[0] for row in rows]


async def until(done: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(WITHIN_S):
        while not await done():  # noqa: ASYNC110 - nobody rings when a server has come back
            await anyio.sleep(0.01)


async def in_thread(call: Callable[[], object]) -> None:
    await anyio.to_thread.run_sync(call)


# Going away and coming back


async def test_a_server_that_is_restarted_is_found_again(own_postgres: PostgresServer) -> None:
    async with open_postgres(own_postgres.url()) as database:
        await database.write(create())
        await asyncio.gather(*(database.write(add(str(number))) for number in range(50)))
        for again in (own_postgres.stop, own_postgres.kill):
            await in_thread(again)
            writing = database.submit(add(again.__name__))
            await in_thread(own_postgres.start)
            assert await writing == 1
        assert len(await database.read(all_notes())) == 52


async def test_what_was_acknowledged_is_stored_whatever_happens_to_the_server(
    own_postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    acknowledged: set[str] = set()
    maybe: set[str] = set()
    refused: set[str] = set()

    async def write(database: PostgresDatabase, note: str) -> None:
        try:
            await database.write(add(note))
            acknowledged.add(note)
        except MaybeStored:
            maybe.add(note)
        except StorageError:
            refused.add(note)

    async with open_postgres(own_postgres.url()) as database:
        await database.write(create())
        async with anyio.create_task_group() as tasks:
            for number in range(3_000):
                tasks.start_soon(write, database, f"{number:05}")

            async def disturb() -> None:
                for how in (own_postgres.stop, own_postgres.kill):
                    seen = len(acknowledged)
                    await until(lambda seen=seen: _more(acknowledged, seen + 100))  # type: ignore[misc]
                    await in_thread(how)
                    await in_thread(own_postgres.start)

            tasks.start_soon(disturb)
        kept = set(await database.read(all_notes()))
    assert acknowledged <= kept
    assert kept <= acknowledged | maybe
    assert len(acknowledged) > 200


async def _more(found: set[str], count: int) -> bool:
    return len(found) >= count


async def test_connections_that_are_killed_are_replaced(
    database: PostgresDatabase, postgres_url: str
) -> None:
    async def terminate() -> None:
        others = "pid <> pg_backend_pid() AND datname = current_database()"
        kill = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"
        await in_thread(lambda: sql(postgres_url, kill))

    stored = 0
    for number in range(5):
        writes = [database.submit(add(f"{number}-{each}")) for each in range(50)]
        await terminate()
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        stored += outcomes.count(1)
        assert all(outcome == 1 or isinstance(outcome, StorageError) for outcome in outcomes)
        await terminate()
        # Nothing was under way: whoever comes next does not notice.
        assert await database.write(add(f"{number}")) == 1
        stored += 1
    assert len(await database.read(all_notes())) >= stored


async def test_while_the_server_is_away_nobody_waits_for_ever(
    own_postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_postgres(own_postgres.url(), patience=SHORT) as database:
        await database.write(create())
        await in_thread(own_postgres.stop)
        began = time.monotonic()
        operations = [database.submit(add(str(number))) for number in range(20)]
        operations.append(asyncio.ensure_future(database.read(all_notes())))  # type: ignore[arg-type]
        outcomes = await asyncio.gather(*operations, return_exceptions=True)
        assert SHORT.wait_s <= time.monotonic() - began < SHORT.wait_s + 1
        assert {type(outcome) for outcome in outcomes} == {StorageError}
        assert database.in_trouble
        await in_thread(own_postgres.start)
        assert await database.write(add("a")) == 1
        await until(lambda: _well(database))
    said = [record.getMessage() for record in caplog.records]
    assert sum("the database is away" in line for line in said) == 1
    assert sum("the database is back" in line for line in said) == 1


async def _well(database: PostgresDatabase) -> bool:
    return not database.in_trouble


async def test_a_server_that_does_not_answer_is_given_up_and_found_again(
    own_postgres: PostgresServer,
) -> None:
    async with open_postgres(own_postgres.url(), patience=SHORT) as database:
        await database.write(create())
        own_postgres.freeze()
        try:
            with anyio.fail_after(WITHIN_S), pytest.raises(StorageError):
                await database.write(add("a"))
            assert database.in_trouble
        finally:
            own_postgres.thaw()
        await until(lambda: _written(database, "b"))
        assert await database.read(all_notes()) == ["b"]


async def _written(database: PostgresDatabase, note: str) -> bool:
    try:
        return await database.write(add(note)) == 1
    except StorageError:
        return False


async def test_an_operation_whose_answer_does_not_come_fails(own_postgres: PostgresServer) -> None:
    async with open_postgres(own_postgres.url(), patience=SHORT) as database:
        await database.write(create())
        gate = ServerGate()
        writing = database.submit(gate.add("a"))
        await gate.entered()
        own_postgres.freeze()
        try:
            with anyio.fail_after(WITHIN_S), pytest.raises(StorageError, match=r"within 0\.3 s"):
                await writing
        finally:
            own_postgres.thaw()
        assert await database.read(all_notes()) == []


async def test_closing_ends_though_the_server_does_not_answer(
    own_postgres: PostgresServer,
) -> None:
    try:
        with anyio.fail_after(WITHIN_S):
            async with open_postgres(own_postgres.url(), patience=SHORT) as database:
                await database.write(create())
                writing = database.submit(add("a"))
                own_postgres.freeze()
        with pytest.raises(StorageError):
            await writing
    finally:
        own_postgres.thaw()


async def test_closing_ends_though_the_server_is_away(own_postgres: PostgresServer) -> None:
    with anyio.fail_after(WITHIN_S):
        async with open_postgres(own_postgres.url(), patience=SHORT) as database:
            await database.write(create())
            await in_thread(own_postgres.stop)
            writing = database.submit(add("a"))
    with pytest.raises(StorageError):
        await writing


async def test_a_connection_lost_while_it_commits_may_have_stored_all(
    database: PostgresDatabase, postgres_url: str
) -> None:
    # A trigger that runs within COMMIT ends the connection there.
    for statement in (
        "CREATE FUNCTION leave() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END$$",
        "CREATE CONSTRAINT TRIGGER leave AFTER INSERT ON notes"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION leave()",
    ):
        await database.write(ask(statement))
    with pytest.raises(MaybeStored):
        await database.write(add("a"))
    await database.write(ask("DROP TRIGGER leave ON notes"))
    assert await database.write(add("b")) == 1


# Limits


async def test_a_statement_that_takes_too_long_fails_and_harms_no_other(
    database: PostgresDatabase,
) -> None:
    with pytest.raises(StorageError, match="statement timeout"):
        await database.write(_after("SET LOCAL statement_timeout = 20", "SELECT pg_sleep(10)"))
    assert await database.write(add("a")) == 1


async def test_a_lock_that_is_not_let_go_fails_who_waits_for_it(
    database: PostgresDatabase, gate: ServerGate
) -> None:
    holding = database.submit(gate.add("a"))
    await gate.entered()
    with pytest.raises(StorageError, match="lock timeout"):
        await database.write(_after("SET LOCAL lock_timeout = 20", "LOCK TABLE notes"))
    gate.open()
    await holding


def _after(*statements: str) -> Operation[None]:
    for statement in statements:
        yield text(statement), {}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("statement_timeout", "5s"),
        ("lock_timeout", "3s"),
        ("idle_in_transaction_session_timeout", "5s"),
        ("TimeZone", "UTC"),
    ],
)
async def test_every_connection_is_set_up(
    database: PostgresDatabase, setting: str, value: str
) -> None:
    reads = [database.read(ask(f"SHOW {setting}")) for _ in range(20)]
    assert await asyncio.gather(*reads) == [[value]] * 20


async def test_there_are_no_more_connections_than_were_asked_for(postgres_url: str) -> None:
    count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    async with open_postgres(postgres_url, connections=3) as database:
        assert await database.read(ask(count)) == [1], "one is opened at first"
        found = await asyncio.gather(*(database.read(ask(count)) for _ in range(50)))
        assert max(number for [number] in found) <= 3


async def test_operations_are_taken_up_in_the_order_they_were_asked_for(postgres_url: str) -> None:
    async with open_postgres(postgres_url, connections=1) as database:
        taken: list[int] = []

        def take(number: int) -> Operation[None]:
            taken.append(number)
            yield text("SELECT 1"), {}

        calls = [database.read if number % 2 else database.write for number in range(100)]
        await asyncio.gather(*(call(take(number)) for number, call in enumerate(calls)))
        assert taken == list(range(100))


# Cancelling


async def test_callers_that_are_cancelled_leave_every_connection_whole(
    postgres_url: str,
) -> None:
    async with open_postgres(postgres_url, connections=4) as database:
        await database.write(create())
        for round_ in range(30):
            calls = [database.write(add(f"{round_:02}-{number}")) for number in range(5)]
            reads = [database.read(all_notes()) for _ in range(5)]
            tasks = [asyncio.ensure_future(call) for call in (*calls, *reads)]
            for _ in range(1 + round_ % 7):
                await anyio.lowlevel.checkpoint()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        state = await asyncio.gather(*(database.write(add(f"x{each}")) for each in range(20)))
        assert state == [1] * 20
        idle = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
        assert await database.read(ask(idle)) == [0]
    assert len(sql(postgres_url, "SELECT note FROM notes")) == 170, "none was cut half way"


async def test_a_mistake_of_an_operation_is_its_callers_alone(
    database: PostgresDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    for mistake in (Mistake(), OSError("mine"), TimeoutError(), ValueError("mine")):
        with pytest.raises(type(mistake)) as caught:
            await database.write(add_and_fail("a", mistake))
        assert caught.value is mistake
    assert caplog.records == []
    assert not database.in_trouble
    assert await database.read(all_notes()) == []


async def test_nobody_waits_for_ever_when_the_workers_are_killed(
    database: PostgresDatabase, gate: ServerGate
) -> None:
    first = database.submit(gate.add("a"))
    await gate.entered()
    for task in asyncio.all_tasks():
        if "PostgresDatabase._work" in str(task):
            task.cancel()
    with pytest.raises(StorageError):
        await first
    await until(lambda: _refuses(database))


async def _refuses(database: PostgresDatabase) -> bool:
    try:
        await database.read(all_notes())
    except StorageError as error:
        return "closed" in str(error)
    return False
