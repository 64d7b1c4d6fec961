"""A session as a file: whole as of its beginning, or seen to be cut short, and never in the way."""

import json
import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from types import GeneratorType
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from gateway.house import House
from gateway.listening import PeerLimits
from storage import sessions, stretches
from storage.claims import Claim
from storage.database import Database
from storage.operations import Operation, StorageError
from tests.gateway.harness import Gateway, call_of
from tests.gateway.peers import Peer, Served, serving, until
from tests.llm.scripted import ScriptedModel
from tests.storage.filled import filled

LONG = "가나다라마바사아자차" * 200
"""6 KB, so that a stretch of such messages is far more than sockets take."""

EXCHANGES = 500
URL = "/api/sessions/{}/export"


def lines(response: httpx.Response) -> list[Any]:
    return [json.loads(line) for line in response.text.splitlines()]


# What it holds


async def test_each_line_is_a_message_as_in_the_history(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await gateway.exchange(tab, model, "질문", "답\n둘째 줄")
        await gateway.exchange(tab, model, "고마워", "네")
    exported = await gateway.http.get(URL.format(tab.session_id))
    assert exported.status_code == 200
    assert exported.headers["content-type"] == "application/jsonl"
    assert exported.headers["vary"].startswith("Accept")
    assert (
        exported.headers["content-disposition"]
        == f'attachment; filename="session-{tab.session_id}.jsonl"'
    )
    assert lines(exported) == (await gateway.messages(tab.session_id))["messages"]


async def test_a_transcript_is_markdown(gateway: Gateway, model: ScriptedModel) -> None:
    async with gateway.tab() as tab:
        await gateway.exchange(tab, model, "질문", "답")
    exported = await gateway.http.get(URL.format(tab.session_id), params={"format": "markdown"})
    assert exported.headers["content-type"] == "text/markdown; charset=utf-8"
    assert exported.headers["content-disposition"].endswith('.md"')
    assert exported.text.startswith(f"# Session {tab.session_id}\n\n## User, ")
    assert exported.text.endswith(" (turn 1)\n\n> 답\n")


@pytest.mark.parametrize(
    ("asked", "accept", "given"),
    [
        (None, "*/*", "application/jsonl"),
        (None, "text/markdown", "text/markdown; charset=utf-8"),
        (None, "application/x-ndjson", "application/x-ndjson"),
        ("jsonl", "text/markdown", "application/jsonl"),
        ("markdown", "application/jsonl", "text/markdown; charset=utf-8"),
    ],
)
async def test_the_query_wins_over_what_is_accepted(
    gateway: Gateway, asked: str | None, accept: str, given: str
) -> None:
    url = URL.format(await gateway.new_session()) + (f"?format={asked}" if asked else "")
    exported = await gateway.http.get(url, headers={"Accept": accept})
    assert exported.headers["content-type"] == given


async def test_a_form_that_there_is_not_is_refused(gateway: Gateway) -> None:
    refused = await gateway.http.get(URL.format(await gateway.new_session()) + "?format=pdf")
    assert refused.status_code == 422
    assert refused.json()["detail"] == (
        "format: input should be 'jsonl' or 'markdown', given \"pdf\""
    )


async def test_a_new_session_is_an_empty_file(gateway: Gateway) -> None:
    exported = await gateway.http.get(URL.format(await gateway.new_session()))
    assert (exported.status_code, exported.content) == (200, b"")


async def test_hidden_messages_are_written_where_they_are_asked_for(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await gateway.exchange(tab, model, "날시", "네?")
        await gateway.exchange(tab, model, "날씨", "맑아요", replaces=1)
    url = URL.format(tab.session_id)
    assert [line["content"] for line in lines(await gateway.http.get(url))] == ["날씨", "맑아요"]
    everything = await gateway.messages(tab.session_id, include="replaced")
    assert lines(await gateway.http.get(f"{url}?include=replaced")) == everything["messages"]


async def test_an_open_turn_shows_its_question_alone(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await tab.chat("질문")
        await (await call_of(model)).say("아직")
        await tab.next("token")
        [question] = lines(await gateway.http.get(URL.format(tab.session_id)))
    assert (question["role"], question["content"]) == ("user", "질문")


async def test_a_partial_reply_says_how_it_ended(gateway: Gateway, model: ScriptedModel) -> None:
    async with gateway.tab() as tab:
        await tab.chat("질문")
        await (await call_of(model)).say("반만")
        await tab.next("token")
        await tab.send(type="cancel")
        await tab.next("complete")
    url = URL.format(tab.session_id)
    assert lines(await gateway.http.get(url))[1]["finish_reason"] == "cancelled"
    assert " (turn 1, cancelled)\n" in (await gateway.http.get(f"{url}?format=markdown")).text


@pytest.mark.parametrize("name", ['..a"b\r\nX: y', "세션", "x" * 200])
async def test_a_file_has_a_safe_name_whatever_the_session_is_called(
    gateway: Gateway, name: str
) -> None:
    await gateway.house.database.write(sessions.create(name, {}))
    exported = await gateway.http.get(URL.format(quote(name)))
    assert exported.status_code == 200
    given = exported.headers["content-disposition"]
    assert re.fullmatch(r'attachment; filename="session-[\w-]{1,64}\.jsonl"', given, re.ASCII)


# What happens meanwhile


class Stretches:
    """Counts the stretches that a gateway reads, and does something before each but the first."""

    def __init__(self, database: Database, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.before: list[Callable[[], Awaitable[object]]] = []
        self._read = database.read
        patch.setattr(database, "read", self._counted)

    async def _counted(self, operation: Operation[Any]) -> Any:
        assert isinstance(operation, GeneratorType)
        if operation.gi_code is stretches.newer.__code__:
            if self.count and self.before:
                await self.before.pop(0)()
            self.count += 1
        return await self._read(operation)


@pytest.fixture
def taken(served: Gateway, monkeypatch: pytest.MonkeyPatch) -> Stretches:
    return Stretches(served.house.database, monkeypatch)


async def test_what_is_said_meanwhile_is_not_in_it(served: Gateway, taken: Stretches) -> None:
    database = served.house.database
    await database.write(filled("s1", [(f"q{turn}", f"r{turn}") for turn in range(100)]))
    for turn in (101, 102):
        new = filled("s1", [("새", "것")], first=turn)
        taken.before.append(partial(database.write, new))
    exported = lines(await served.http.get(URL.format("s1")))
    assert [line["content"] for line in exported] == [
        f"{role}{turn}" for turn in range(100) for role in "qr"
    ]
    assert (await served.messages("s1"))["total_count"] == 204


async def test_who_asks_for_the_head_alone_gets_no_body_and_no_length(
    served: Gateway, taken: Stretches
) -> None:
    session_id = await served.new_session()
    await served.house.database.write(filled("full", [("질문", "답")]))
    for each in (session_id, "full"):
        head = await served.http.head(URL.format(each))
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == "application/jsonl"
        assert "content-length" not in head.headers
    assert (await served.http.head(URL.format("nobody"))).status_code == 404
    assert taken.count == 0, "nobody would see it"


async def cut_short(gateway: Gateway, taken: Stretches) -> list[str]:
    """Ask for an export of `s1` that cannot be finished; return the lines that come of it."""
    await gateway.house.database.write(filled("s1", [("q", "r")] * 100))
    pieces: list[bytes] = []

    async def read(response: httpx.Response) -> None:
        async for piece in response.aiter_raw():
            pieces.append(piece)  # noqa: PERF401  # it is cut short

    async with gateway.http.stream("GET", URL.format("s1")) as response:
        assert response.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
            await read(response)
    assert taken.before == []
    return b"".join(pieces).decode().splitlines()


async def test_a_session_that_is_deleted_meanwhile_is_cut_short(
    served: Gateway, taken: Stretches, caplog: pytest.LogCaptureFixture
) -> None:
    taken.before.append(partial(served.house.turns.delete_session, Claim("s1")))
    assert len(await cut_short(served, taken)) == stretches.WRITTEN_OUT
    assert "an export was cut short: session_not_found" in caplog.messages


async def test_a_database_that_fails_meanwhile_cuts_it_short(
    served: Gateway, taken: Stretches, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise StorageError("the disk is gone")

    taken.before.append(fail)
    assert len(await cut_short(served, taken)) == stretches.WRITTEN_OUT
    assert "an export was cut short: storage_error" in caplog.messages
    assert "Traceback" not in caplog.text


async def test_who_may_not_ask_any_more_gets_no_more(
    served: Gateway, taken: Stretches, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def expire() -> None:
        lapse = "gateway.auth.authenticator.Authenticator.lapse"
        monkeypatch.setattr(lapse, lambda self, principal: "expired")

    taken.before.append(expire)
    # It is asked before it reads, so one more is on its way.
    assert len(await cut_short(served, taken)) == 2 * stretches.WRITTEN_OUT


# Who takes it


@pytest.fixture
async def stalled(tmp_path: Path) -> AsyncIterator[Served]:
    """A gateway with a session `s1` of some megabytes."""
    async with serving(tmp_path, PeerLimits()) as served:
        await house(served).database.write(filled("s1", [(LONG, LONG)] * EXCHANGES))
        yield served


def house(served: Served) -> House:
    found: House = served.server.app.state.house
    return found


async def begin(peer: Peer, served: Served) -> None:
    """Ask for an export and read only its head, until there is no room for more."""
    await peer.request("GET", URL.format("s1"), Connection="close")
    assert b" 200 " in await peer.until(b"\r\n\r\n")
    await until(lambda: served.connections[0].flow.write_paused)


async def test_who_does_not_read_holds_nothing_of_the_database(
    stalled: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = house(stalled).database
    taken = Stretches(database, monkeypatch)
    async with Peer(stalled.url) as peer:
        await begin(peer, stalled)
        assert taken.count < 2 * EXCHANGES // stretches.WRITTEN_OUT // 2
        await database.write(sessions.touch(Claim("s1")))
        with closing(sqlite3.connect(tmp_path / "chat.db")) as raw:
            [(busy, *_)] = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert busy == 0, "somebody reads an old snapshot"
        rest = await peer.rest()
    assert rest.count(b'"message_id"') == 2 * EXCHANGES
    assert rest.endswith(b"\r\n0\r\n\r\n")


async def test_who_goes_away_leaves_nothing_behind(
    stalled: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = Stretches(house(stalled).database, monkeypatch)
    occupancy = house(stalled).entrance.occupancy
    async with Peer(stalled.url) as peer:
        await begin(peer, stalled)
        assert occupancy.total == 1
        read = taken.count
    await until(lambda: occupancy.total == 0)
    await stalled.all_gone()
    assert taken.count <= read + 1
