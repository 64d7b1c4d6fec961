"""Conversations move from a file to a server, and back, and read the same there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.cursor import BEGINNING
from protocol.errors import Refusal
from protocol.server_frames import Frame
from storage import log, messages, sessions, turns
from storage.claims import Claim
from storage.copying import Copied, copy_sessions
from storage.database import Database, open_database
from storage.migrations import migrate
from storage.operations import StorageError
from storage.turns import NewTurn
from tests.storage.store import turn_end

MANY = 501
"""More than are looked up at once."""


def quietly(_: Copied) -> None:
    """Tell nobody."""


@asynccontextmanager
async def opened(where: str | Path) -> AsyncIterator[Database]:
    async with open_database(where) as database:
        await migrate(database)
        yield database


async def ask(database: Database, session_id: str, question: str) -> turns.StoredTurn:
    names = (f"{session_id}-{question}-{part}" for part in ("asks", "replies"))
    new = NewTurn(
        claim=Claim(session_id),
        message=question,
        replaces=None,
        request_id=question,
        fingerprint=question,
        generation={"max_new_tokens": 128},
        status="running",
        user_message_id=next(names),
        reply_message_id=next(names),
    )
    return await database.write(turns.accept(new))


async def talk(database: Database, session_id: str) -> None:
    """Hold a conversation: one turn that is over, and one that is open."""
    await database.write(sessions.create(session_id, {"title": "날씨"}))
    turn = await ask(database, session_id, "하나")
    await database.write(turns.end(turn, turn_end(turn, "1 😀\u2028%")))
    turn = await ask(database, session_id, "둘")
    await database.write(turns.checkpoint(turn, "2 반쯤"))


async def told(database: Database, session_id: str) -> list[Frame]:
    return await database.read(log.read_after(Claim(session_id), BEGINNING))


async def shown(database: Database, session_id: str) -> messages.Page:
    page = messages.page(Claim(session_id), limit=10, before=None, max_bytes=100_000)
    return await database.read(page)


@pytest.fixture(params=["to a server", "to a file"])
def places(request: pytest.FixtureRequest, tmp_path: Path, postgres_url: str) -> list[str | Path]:
    file = tmp_path / "chat.db"
    return [file, postgres_url] if request.param == "to a server" else [postgres_url, file]


async def test_a_copied_conversation_reads_the_same(places: list[str | Path]) -> None:
    async with opened(places[0]) as source, opened(places[1]) as target:
        await talk(source, "s1")
        assert await copy_sessions(source, target, quietly) == Copied(1, 0)
        assert await told(target, "s1") == await told(source, "s1")
        assert await shown(target, "s1") == await shown(source, "s1")
        of_both = [await place.read(sessions.get(Claim("s1"))) for place in (source, target)]
        assert of_both[0] == of_both[1]
        [turn] = await target.read(turns.lapsed(most=10))
        assert turn.checkpoint == "2 반쯤", "an open turn is there to be taken up"


async def test_a_copy_that_was_cut_short_is_finished_by_making_it_again(
    places: list[str | Path],
) -> None:
    async with opened(places[0]) as source, opened(places[1]) as target:
        await talk(source, "s1")
        await copy_sessions(source, target, quietly)
        await talk(source, "s2")
        assert await copy_sessions(source, target, quietly) == Copied(1, 1)
        assert await told(target, "s2") == await told(source, "s2")


async def test_a_session_that_cannot_be_copied_whole_is_not_copied_at_all(
    places: list[str | Path],
) -> None:
    async with opened(places[0]) as source, opened(places[1]) as target:
        await talk(source, "s1")
        await target.write(sessions.create("s2", {}))
        turn = await ask(target, "s2", "other")
        # A reply of the same name, as no two conversations have it.
        taken = replace(turn, reply_message_id="s1-하나-replies")
        await target.write(turns.end(taken, turn_end(taken, "other")))
        with pytest.raises(StorageError):
            await copy_sessions(source, target, quietly)
        with pytest.raises(Refusal):
            await target.read(sessions.get(Claim("s1")))


async def test_progress_is_told(places: list[str | Path]) -> None:
    progress: list[int] = []
    async with opened(places[0]) as source, opened(places[1]) as target:
        for number in range(MANY):
            await source.write(sessions.create(f"s{number}", {}))
        done = await copy_sessions(source, target, lambda so_far: progress.append(so_far.copied))
    assert done == Copied(MANY, 0)
    assert progress == [500, MANY]


async def test_a_gateway_that_has_the_file_open_stops_a_copy(tmp_path: Path) -> None:
    async with opened(tmp_path / "chat.db"):
        with pytest.raises(StorageError, match="in use"):
            async with open_database(tmp_path / "chat.db"):
                pass
