"""Searching a session: the newest of what is found, page by page, on either kind of database."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.search import search
from protocol.errors import Refusal
from protocol.rest import Messages
from storage import sessions, stretches
from storage.claims import Claim
from storage.database import Database, open_database
from storage.matching import Words
from storage.migrations import migrate
from storage.operations import Operation, Row
from storage.stretches import LOOKED_THROUGH
from tests.gateway.harness import WITHIN_S, Gateway, Json
from tests.llm.scripted import ScriptedModel
from tests.servers.postgres import fresh_database
from tests.storage.filled import filled

PLENTY = 2**20
HAY = [("아무 말", "대답")] * LOOKED_THROUGH
"""As much as a search reads at once, twice."""


@pytest.fixture(params=["sqlite", "postgres"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """An open database of either kind, without sessions."""
    with ExitStack() as stack:
        where: Any = tmp_path / "chat.db"
        if request.param == "postgres":
            server_url = request.getfixturevalue("postgres_server_url")
            where = stack.enter_context(fresh_database(server_url))
        async with open_database(where, connections=2) as database:
            await migrate(database)
            yield database


async def find(database: Database, query: str, **options: Any) -> Messages:
    given = {
        "limit": None,
        "before": None,
        "max_bytes": PLENTY,
        "one_at_a_time": asyncio.Lock(),
        **options,
    }
    return await search(database, Claim("s1"), Words(query), **given)


def ids(found: Messages) -> list[str]:
    return [message.message_id for message in found.messages]


# The storage of either kind


async def test_what_is_found_comes_oldest_first_and_is_whole(database: Database) -> None:
    exchanges = [("서울 날씨는?", "맑음"), ("고마워", "오늘 날씨 얘기였어요"), ("끝", "네")]
    await database.write(filled("s1", exchanges))
    found = await find(database, "날씨")
    assert ids(found) == ["s1-q1", "s1-r2"]
    assert [(m.role, m.content, m.turn) for m in found.messages] == [
        ("user", "서울 날씨는?", 1),
        ("assistant", "오늘 날씨 얘기였어요", 2),
    ]
    assert (found.total_count, found.next_before, found.cursor) == (6, None, None)


async def test_pages_hold_the_newest_and_lead_to_the_first(database: Database) -> None:
    await database.write(filled("s1", [(f"바늘 {number}", "") for number in range(5)]))
    pages: list[list[str]] = []
    before = None
    while not pages or before:
        found = await find(database, "바늘", limit=2, before=before)
        pages.append(ids(found))
        before = found.next_before
    assert pages == [["s1-q4", "s1-q5"], ["s1-q2", "s1-q3"], ["s1-q1"]]


async def test_the_last_page_says_that_it_is_the_last(database: Database) -> None:
    await database.write(filled("s1", [("바늘", "바늘")]))
    found = await find(database, "바늘", limit=2)
    assert (ids(found), found.next_before) == (["s1-q1", "s1-r1"], None)


async def test_a_full_page_is_the_last_where_nothing_more_is_found_however_far_back(
    database: Database,
) -> None:
    await database.write(filled("s1", [*HAY, ("바늘", "바늘")]))
    found = await find(database, "바늘", limit=2)
    assert (len(found.messages), found.next_before) == (2, None)


async def test_a_page_ends_early_where_it_would_be_too_large(database: Database) -> None:
    await database.write(filled("s1", [("바늘" * 500, "바늘" * 500)]))
    found = await find(database, "바늘", max_bytes=5_000)
    assert (ids(found), found.next_before) == (["s1-r1"], "s1-r1")
    found = await find(database, "바늘", max_bytes=5_000, before="s1-r1")
    assert (ids(found), found.next_before) == (["s1-q1"], None)


async def test_what_lies_far_back_is_found(database: Database) -> None:
    await database.write(filled("s1", [("바늘", "바늘"), *HAY]))
    found = await find(database, "바늘")
    assert (ids(found), found.next_before) == (["s1-q1", "s1-r1"], None)


class Held(Words):
    """Words that are looked for until a test lets them be found."""

    def __init__(self) -> None:
        super().__init__("바늘")
        self.looked, self.goes_on = 0, threading.Event()

    def among(self, rows: Iterable[Row]) -> list[Row]:
        self.looked += 1
        assert self.goes_on.wait(WITHIN_S)
        return super().among(rows)


async def test_many_who_search_take_turns_at_the_processor(database: Database) -> None:
    await database.write(filled("s1", [("바늘", "바늘")]))
    words, lock = Held(), asyncio.Lock()
    given: Any = {"limit": None, "before": None, "max_bytes": PLENTY, "one_at_a_time": lock}
    async with asyncio.TaskGroup() as tasks:
        searches = [
            tasks.create_task(search(database, Claim("s1"), words, **given)) for _ in range(3)
        ]
        while not words.looked:
            await asyncio.to_thread(str)
        for _ in range(20):
            await database.read(stretches.begin_search(Claim("s1"), before=None))
        assert words.looked == 1
        words.goes_on.set()
    assert [len(each.result().messages) for each in searches] == [2, 2, 2]
    assert words.looked == 3


async def test_a_search_whose_time_is_up_tells_where_to_go_on(database: Database) -> None:
    await database.write(filled("s1", [("바늘", "바늘"), *HAY]))
    pages: list[list[str]] = []
    before = None
    while not pages or before:
        found = await find(database, "바늘", before=before, within_s=0)
        pages.append(ids(found))
        before = found.next_before
    assert pages == [[], [], ["s1-q1", "s1-r1"]]


async def test_what_is_said_meanwhile_neither_shows_nor_shifts_anything(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.write(filled("s1", [("바늘", "바늘"), *HAY]))
    more = count(len(HAY) + 2)
    older = stretches.older

    def meanwhile(*args: Any, **options: Any) -> Operation[Any]:
        database.submit(filled("s1", [("바늘", "바늘")], first=next(more)))
        return older(*args, **options)

    monkeypatch.setattr(stretches, "older", meanwhile)
    found = await find(database, "바늘", before=f"s1-q{len(HAY) + 1}")
    assert ids(found) == ["s1-q1", "s1-r1"]
    assert next(more) > len(HAY) + 3, "the search took more than one stretch"


async def test_others_read_and_write_between_two_stretches(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.write(filled("s1", HAY))
    await database.write(sessions.create("other", {}))
    looks: list[str] = []
    among = Words.among

    def look(self: Words, rows: Any) -> Any:
        looks.append("look")
        done = asyncio.run_coroutine_threadsafe(visit(), loop)
        done.result(timeout=10)
        return among(self, rows)

    async def visit() -> None:
        await database.read(sessions.get(Claim("other")))
        await database.write(sessions.touch(Claim("other")))
        looks.append("visit")

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(Words, "among", look)
    await find(database, "바늘")
    assert looks == ["look", "visit"] * 3


async def test_a_session_that_is_deleted_meanwhile_is_not_found(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.write(filled("s1", HAY))
    among = Words.among

    def look(self: Words, rows: Any) -> Any:
        asyncio.run_coroutine_threadsafe(database.write(sessions.remove(Claim("s1"))), loop).result(
            timeout=10
        )
        return among(self, rows)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(Words, "among", look)
    with pytest.raises(Refusal) as refused:
        await find(database, "바늘")
    assert refused.value.code == "session_not_found"


# Against the obvious

ALPHABET = "날씨는가한하글 \nAaßſİiÉé\u0301👋🏽%_\\'\"Σσς\u1161ᄀ"
TEXTS = st.builds(normalize, st.sampled_from(["NFC", "NFD"]), st.text(ALPHABET, max_size=12))


@pytest.fixture(params=["sqlite", "postgres"])
def kept(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[asyncio.Runner, Database]]:
    """A database and the loop that it runs on, while the test waits."""
    with ExitStack() as stack, asyncio.Runner() as runner:
        where: Any = tmp_path / "chat.db"
        if request.param == "postgres":
            where = stack.enter_context(
                fresh_database(request.getfixturevalue("postgres_server_url"))
            )
        opened = open_database(where, connections=1)
        database = runner.run(opened.__aenter__())
        runner.run(migrate(database))
        yield runner, database
        runner.run(opened.__aexit__(None, None, None))


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    said=st.lists(st.tuples(TEXTS, TEXTS), max_size=6),
    query=TEXTS.filter(str.strip),
    limit=st.integers(1, 4),
)
def test_all_pages_together_hold_what_a_filter_would_keep(
    kept: tuple[asyncio.Runner, Database], said: list[tuple[str, str]], query: str, limit: int
) -> None:
    runner, database = kept

    def plain(text: str) -> str:
        return normalize("NFC", normalize("NFD", text).casefold())

    async def found() -> list[str]:
        await database.write(filled("s1", said))
        pages: list[list[str]] = []
        before = None
        while not pages or before:
            page = await find(database, query, limit=limit, before=before)
            assert len(page.messages) <= limit
            pages.insert(0, [message.content for message in page.messages])
            before = page.next_before
        await database.write(sessions.remove(Claim("s1")))
        return [content for page in pages for content in page]

    words = plain(query).split()
    texts = [text for exchange in said for text in exchange]
    assert runner.run(found()) == [
        text for text in texts if all(word in plain(text) for word in words)
    ]


# Over REST


async def refused(gateway: Gateway, session_id: str, **query: str) -> Json:
    answer = await gateway.http.get(f"/api/sessions/{session_id}/messages", params=query)
    assert answer.status_code == 422
    problem: Json = answer.json()
    return problem


async def test_a_page_of_a_search_looks_like_one_of_the_history(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await gateway.exchange(tab, model, "서울 날씨는?", "맑아요")
        await gateway.exchange(tab, model, "고마워", "천만에요")
    page = await gateway.messages(tab.session_id)
    assert await gateway.messages(tab.session_id, q=" 날씨 ") == {
        **page,
        "messages": page["messages"][:1],
        "cursor": None,
    }


async def test_hidden_messages_are_found_where_they_are_asked_for(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await gateway.exchange(tab, model, "날시", "네?")
        await gateway.exchange(tab, model, "날씨", "맑아요", replaces=1)
    assert (await gateway.messages(tab.session_id, q="날시"))["messages"] == []
    [found] = (await gateway.messages(tab.session_id, q="날시", include="replaced"))["messages"]
    assert (found["content"], found["replaced_by"]) == ("날시", 2)


@pytest.mark.parametrize("query", ["", " ", "\u3000\n", "\x1c", "가" * 257])
async def test_too_little_or_too_much_to_look_for_is_refused(gateway: Gateway, query: str) -> None:
    problem = await refused(gateway, await gateway.new_session(), q=query)
    assert problem["code"] == "bad_frame"
    assert problem["detail"].startswith("q: input should have 1 to 256 characters")


async def test_white_space_around_the_words_is_not_counted(gateway: Gateway) -> None:
    session_id = await gateway.new_session()
    assert (await gateway.messages(session_id, q=f"  {'가' * 256}  "))["messages"] == []


async def test_what_no_database_could_store_can_be_looked_for(gateway: Gateway) -> None:
    session_id = await gateway.new_session()
    assert (await gateway.messages(session_id, q="\0"))["messages"] == []


async def test_a_search_goes_on_from_a_message_of_the_session_alone(gateway: Gateway) -> None:
    session_id = await gateway.new_session()
    query = {"q": "날씨", "before": "nothing"}
    answer = await gateway.http.get(f"/api/sessions/{session_id}/messages", params=query)
    assert (answer.status_code, answer.json()["code"]) == (404, "message_not_found")
