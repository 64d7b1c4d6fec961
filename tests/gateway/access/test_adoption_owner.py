"""Whose the sessions are that were there before anybody had a name, and who sees a list of them."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.gateway.access.people import (
    ALICE_BY_KEY,
    ALICE_BY_TOKEN,
    ANONYMOUS,
    BOB_BY_KEY,
    NOT_FOUND,
    Person,
    access_settings,
    new_session,
    outcome,
    status,
)
from tests.gateway.harness import Gateway, Json, in_process, settings_for
from tests.storage.original import Original

ALONE: Json = {"api_keys": (), "jwt_issuer": "", "jwt_audience": "", "jwt_secret": ""}


@pytest.fixture
def adopted(tmp_path: Path) -> str:
    """A database of the original backend; the id of the session in it."""
    with closing(sqlite3.connect(tmp_path / "chat.db", isolation_level=None)) as connection:
        original = Original(connection)
        original.said("user", "누구의 것일까?")
        original.said("assistant", "모두의 것")
    return "s1"


async def sees(gateway: Gateway, person: Person, session_id: str) -> bool:
    """Whether a session is somebody's, by any way to ask; all have to agree."""
    found = await gateway.http.get(f"/api/sessions/{session_id}", headers=person.headers)
    page = await gateway.http.get(f"/api/sessions/{session_id}/messages", headers=person.headers)
    listed = session_id in await ids(gateway, person)
    if found.status_code == 200:
        async with gateway.tab(session_id, headers=person.headers) as tab:
            assert (await tab.history())["total_count"] == page.json()["total_count"]
    else:
        assert await outcome(gateway, person, session_id=session_id) == NOT_FOUND
    assert found.status_code == page.status_code == (200 if listed else 404)
    return listed


async def ids(gateway: Gateway, person: Person, query: str = "") -> list[str]:
    """The ids of a page of somebody's sessions."""
    listed = await gateway.http.get(f"/api/sessions{query}", headers=person.headers)
    assert listed.status_code == 200, listed.text
    return [session["session_id"] for session in listed.json()["sessions"]]


@pytest.mark.parametrize(
    ("settings", "seen_by"),
    [
        (ALONE, {"anonymous", "key:alice", "jwt:alice", "key:bob"}),  # all of them anonymous
        ({}, set()),
        ({"allow_anonymous": True}, {"anonymous"}),
        ({"default_owner": "anonymous", "allow_anonymous": True}, {"anonymous"}),
        ({"default_owner": "key:alice"}, {"key:alice"}),
        ({"default_owner": "key:alice", "allow_anonymous": True}, {"key:alice"}),
        ({"default_owner": "jwt:alice", "allow_anonymous": True}, {"jwt:alice"}),
        ({"default_owner": "key:carol", "allow_anonymous": True}, set()),
    ],
    ids=lambda given: ", ".join(map(str, given.values())) if isinstance(given, dict) else "",
)
async def test_what_was_there_before_belongs_to_nobody_in_particular(
    tmp_path: Path, adopted: str, settings: dict[str, Any], seen_by: set[str]
) -> None:
    everybody = [ALICE_BY_KEY, ALICE_BY_TOKEN, BOB_BY_KEY]
    if settings is ALONE or "allow_anonymous" in settings:
        everybody.append(ANONYMOUS)
    async with in_process(access_settings(tmp_path, **settings)) as gateway:
        found = {person.name for person in everybody if await sees(gateway, person, adopted)}
    assert found == seen_by


async def test_a_gateway_that_learns_names_keeps_its_conversations_for_its_default_owner(
    tmp_path: Path,
) -> None:
    async with in_process(settings_for(tmp_path / "chat.db", "")) as gateway, gateway.tab() as tab:
        pass
    async with in_process(access_settings(tmp_path, default_owner="key:alice")) as gateway:
        assert await sees(gateway, ALICE_BY_KEY, tab.session_id)
        assert not await sees(gateway, BOB_BY_KEY, tab.session_id)
        own = await new_session(gateway, ALICE_BY_KEY)
    async with in_process(settings_for(tmp_path / "chat.db", "")) as gateway:
        assert set(await ids(gateway, ANONYMOUS)) == {tab.session_id, own}


async def test_everybody_lists_ones_own_sessions_the_newest_first(tmp_path: Path) -> None:
    async with in_process(access_settings(tmp_path)) as gateway:
        made: dict[Person, list[str]] = {ALICE_BY_KEY: [], ALICE_BY_TOKEN: [], BOB_BY_KEY: []}
        for _ in range(3):
            for person, own in made.items():
                own.insert(0, await new_session(gateway, person))
        for person, own in made.items():
            assert await ids(gateway, person) == own


async def test_a_list_comes_in_pages(tmp_path: Path) -> None:
    async with in_process(access_settings(tmp_path)) as gateway:
        made: list[str] = []
        for _ in range(5):
            made.insert(0, await new_session(gateway, ALICE_BY_KEY))
            await new_session(gateway, BOB_BY_KEY)
        pages, before = [], ""
        while True:
            query = f"?limit=2{before}"
            page = await gateway.http.get(f"/api/sessions{query}", headers=ALICE_BY_KEY.headers)
            pages.append([session["session_id"] for session in page.json()["sessions"]])
            if page.json()["next_before"] is None:
                break
            before = f"&before={page.json()['next_before']}"
        assert pages == [made[:2], made[2:4], made[4:]]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "chat.example.org"])
async def test_where_strangers_come_in_nobody_without_a_name_lists_sessions(
    tmp_path: Path, host: str
) -> None:
    settings = access_settings(tmp_path, host=host, allow_anonymous=True, allowed_hosts="127.0.0.1")
    async with in_process(settings) as gateway:
        session_id = await new_session(gateway, ANONYMOUS)
        listed = await gateway.http.get("/api/sessions")
        assert (listed.status_code, listed.json()["code"]) == (401, "unauthorized")
        assert listed.headers["www-authenticate"] == "Bearer"
        assert session_id not in listed.text
        assert await status(gateway, ALICE_BY_KEY) == 200
        # By its id it is its own.
        assert (await gateway.http.get(f"/api/sessions/{session_id}")).status_code == 200


async def test_a_public_gateway_without_names_lists_nothing(tmp_path: Path) -> None:
    settings = access_settings(
        tmp_path, host="0.0.0.0", allow_anonymous=True, allowed_hosts="127.0.0.1", **ALONE
    )
    async with in_process(settings) as gateway:
        assert await status(gateway, ANONYMOUS) == 401
        assert await status(gateway, ALICE_BY_KEY) == 401  # nobody has a name here


async def test_on_this_machine_alone_who_is_anonymous_lists_what_is_nobodys(
    tmp_path: Path,
) -> None:
    async with in_process(access_settings(tmp_path, allow_anonymous=True)) as gateway:
        own = await new_session(gateway, ANONYMOUS)
        await new_session(gateway, ALICE_BY_KEY)
        assert await ids(gateway, ANONYMOUS) == [own]


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
async def test_who_comes_through_a_proxy_of_this_machine_is_not_this_machine(
    tmp_path: Path, name: str
) -> None:
    async with in_process(access_settings(tmp_path, **ALONE)) as gateway:
        await new_session(gateway, ANONYMOUS)
        assert await status(gateway, ANONYMOUS) == 200
        listed = await gateway.http.get("/api/sessions", headers={name: "127.0.0.1"})
        assert listed.status_code == 401


@pytest.mark.parametrize(
    "behind", [{"trusted_proxies": "127.0.0.1"}, {"allowed_hosts": "127.0.0.1,chat.example.org"}]
)
async def test_a_gateway_behind_a_proxy_of_this_machine_lists_nothing_for_strangers(
    tmp_path: Path, behind: dict[str, str]
) -> None:
    with pytest.raises(ValidationError, match="ALLOW_ANONYMOUS"):
        access_settings(tmp_path, **ALONE, **behind)
    settings = access_settings(tmp_path, allow_anonymous=True, **ALONE, **behind)
    async with in_process(settings) as gateway:
        assert await status(gateway, ANONYMOUS) == 401
