"""Which databases of PostgreSQL are opened, and which values they take."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from sqlalchemy import text

from storage import messages, sessions, turns
from storage.claims import Claim
from storage.database import open_database
from storage.migrations import MIGRATIONS, migrate
from storage.operations import Operation, StorageError
from storage.postgres import PostgresDatabase, open_postgres
from tests.servers.postgres import PostgresServer, fresh_database, sql
from tests.storage.notes import WITHIN_S, add, all_notes, create
from tests.storage.store import PostgresStore

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[PostgresDatabase]:
    """An open database with a table of notes."""
    with anyio.fail_after(2 * WITHIN_S):
        async with open_postgres(postgres_url) as database:
            await database.write(create())
            yield database


def one() -> Operation[int]:
    rows = yield text("SELECT 1 AS one"), {}
    return int(rows[0]["one"])


# Opening


async def test_a_database_in_another_encoding_is_refused(postgres_server_url: str) -> None:
    options = "ENCODING 'SQL_ASCII' TEMPLATE template0"
    with fresh_database(postgres_server_url, options) as url:
        with pytest.raises(StorageError, match="its encoding is SQL_ASCII") as caught:
            async with open_postgres(url):
                pass
        assert "\n" not in str(caught.value)


async def test_a_database_that_can_only_be_read_is_refused(postgres_url: str) -> None:
    name = postgres_url.rpartition("/")[2]
    sql(postgres_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(StorageError, match="only be read"):
        async with open_postgres(postgres_url):
            pass


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cr3t@127.0.0.1:1/chat",
        "postgresql://me:s3cr3t@/chat?host=/nowhere",
        "postgresql://me:x/s3cr3t@127.0.0.1/chat",
        "postgresql://me:x#s3cr3t@127.0.0.1/chat",
        "postgresql://me:x?s3cr3t@127.0.0.1/chat",
        "postgresql://me:s3cr3t@127.0.0.1:s3cr3t/chat",
        "postgresql://me:s3cr3t@[127.0.0.1/chat",
        "postgresql://me:s3cr3t@127.0.0.1:1/chat?sslmode=s3cr3t",
    ],
)
async def test_what_cannot_be_opened_does_not_tell_the_password(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(StorageError, match="cannot open the database: ") as caught:
        async with open_database(url):
            pass
    assert "\n" not in str(caught.value)
    assert "s3cr3t" not in f"{caught.getrepr(style='native')}{caplog.text}"


async def test_a_database_that_is_not_there_is_named(postgres_url: str) -> None:
    with pytest.raises(StorageError, match='database "nowhere" does not exist'):
        async with open_postgres(postgres_url.rpartition("/")[0] + "/nowhere"):
            pass


async def test_a_database_is_found_through_a_socket_of_the_file_system(
    own_postgres: PostgresServer,
) -> None:
    async with open_database(own_postgres.socket_url()) as database:
        assert await database.read(one()) == 1


async def test_nodes_that_start_at_once_migrate_once(postgres_url: str) -> None:
    async def start() -> list[str]:
        async with open_postgres(postgres_url) as database:
            return await migrate(database)

    applied = await asyncio.gather(*(start() for _ in range(5)))
    assert sorted(applied, key=len) == [[], [], [], [], list(MIGRATIONS)]


def test_a_file_needs_no_driver_of_a_server(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys; from pathlib import Path\n"
        "from storage.database import open_database; from storage.migrations import migrate\n"
        "async def main():\n"
        f"    async with open_database(Path({str(tmp_path / 'chat.db')!r})) as database:\n"
        "        await migrate(database)\n"
        "asyncio.run(main())\n"
        "sys.exit('asyncpg' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=WITHIN_S)


# Values


@pytest.mark.parametrize("name", ["a\0b", "\0", "\ud800", "a\udfff", "😀\ud83d", "a" * 100_000])
def test_whatever_is_looked_up_can_be_said(postgres: PostgresStore, name: str) -> None:
    with pytest.raises(Exception, match="session_not_found"):
        postgres.read(sessions.get(Claim(name)))
    turn = postgres.new_turn(request_id=name)
    assert postgres.read(turns.find_repeat(turn)) is None


@pytest.mark.parametrize("content", ["a\0b\ud800c", "\ud83d\ude00"])
def test_what_cannot_be_stored_is_replaced(postgres: PostgresStore, content: str) -> None:
    postgres.exchange(content, content)
    whole = postgres.read(messages.page(Claim("s1"), limit=None, before=None, max_bytes=2**20))
    wanted = (
        content.replace("\0", "\ufffd").replace("\ud800", "\ufffd").replace("\ud83d\ude00", "😀")
    )
    assert [message.content for message in whole.messages] == [wanted, wanted]


def test_a_refused_value_is_not_quoted(
    postgres: PostgresStore, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(StorageError) as caught:
        postgres.write(turns.checkpoint(postgres.ask(), 5))  # type: ignore[arg-type]
    assert "5" not in str(caught.value)
    with pytest.raises(StorageError):
        postgres.session("s1")
    assert "s1" not in caplog.text


@pytest.mark.parametrize(
    "note", ["%", ":new_note", "?", "$1", "';--", "\\", "안녕", "😀", "\u2028"]
)
async def test_text_is_stored_as_it_is(database: PostgresDatabase, note: str) -> None:
    await database.write(add(note))
    assert await database.read(all_notes()) == [note]
