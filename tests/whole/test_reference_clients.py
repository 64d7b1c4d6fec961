"""The reference clients against a real gateway: what they do when things do not go smoothly."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.whole.audit import StrictLog
from tests.whole.clients import Json, Log, Refused, WebSocketClient
from tests.whole.http_client import HttpClient, load_history
from tests.whole.processes import Program, gateway

QUICK = "{} #sim pieces=20 interval_ms=1 first_token_ms=0#"
WITHIN_S = 15.0


@pytest.fixture
async def program(tmp_path: Path) -> AsyncIterator[Program]:
    async with gateway(tmp_path) as program, asyncio.timeout(2 * WITHIN_S):
        yield program
        assert await program.stop() == 0
        assert program.complaints == []


@asynccontextmanager
async def _http(program: Program) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=program.url, trust_env=False, timeout=WITHIN_S) as http:
        yield http


def _url(program: Program) -> str:
    return f"{program.url.replace('http', 'ws', 1)}/ws"


async def test_a_cursor_that_is_not_honoured_means_starting_over_with_the_history(
    program: Program,
) -> None:
    async with _http(program) as http, WebSocketClient(_url(program)) as first:
        before = await first.ask(QUICK.format("첫째"))

        async def history(session_id: str) -> Json:
            return await load_history(http, session_id)

        log = Log()
        log.cursor = "9.9.9"
        lost = WebSocketClient(_url(program), session_id=first.session_id, log=log, history=history)
        async with lost:
            after = await lost.ask(QUICK.format("둘째"))
    assert lost.connections == 2
    assert log.turns[1].text == before.text
    assert log.turns[2].text == after.text
    assert log.turns[2].ending is not None


async def test_an_event_source_starts_over_alike(program: Program) -> None:
    async with _http(program) as http, WebSocketClient(_url(program)) as tab:
        before = await tab.ask(QUICK.format("첫째"))
        assert tab.session_id is not None
        log = Log()
        log.cursor = "nonsense"
        client = HttpClient(http, tab.session_id, log=log)
        following = asyncio.create_task(client.follow())
        await log.until(lambda: log.cursor == "1.1.end")
        reply = await client.ask(QUICK.format("둘째"))
        await log.until(lambda: log.cursor == "2.1.end")
        following.cancel()
    assert [turn.text for turn in log.turns.values()] == [before.text, reply["content"]]


async def test_two_tabs_that_ask_at_once_are_answered_one_after_the_other(
    program: Program,
) -> None:
    async with WebSocketClient(_url(program), log=StrictLog()) as phone:
        await phone.ask(QUICK.format("먼저"))
        async with WebSocketClient(
            _url(program), session_id=phone.session_id, log=StrictLog()
        ) as laptop:
            turns = await asyncio.gather(
                phone.ask(QUICK.format("전화")), laptop.ask(QUICK.format("노트북"))
            )
            last = max(turn.number for turn in turns)
            for tab in (phone, laptop):
                await tab.until(lambda tab=tab: tab.log.cursor == f"{last}.1.end")  # type: ignore[misc]
    assert {turn.number for turn in turns} == {2, 3}
    assert [laptop.log.turns[n].text for n in (2, 3)] == [phone.log.turns[n].text for n in (2, 3)]


async def test_what_will_never_be_done_is_not_asked_again(program: Program) -> None:
    async with _http(program) as http, WebSocketClient(_url(program)) as tab:
        with pytest.raises(Refused, match="bad_frame"):
            await tab.ask("   ", request_id="blank")
        session_id = tab.session_id
        assert session_id is not None
        client = HttpClient(http, session_id, log=Log())
        with pytest.raises(Refused, match="bad_frame"):
            await client.ask("   ")
        client.session_id = "00000000-0000-0000-0000-000000000000"
        with pytest.raises(Refused, match="session_not_found"):
            await client.ask("hello")


async def test_an_edit_hides_what_it_replaces(program: Program) -> None:
    async with WebSocketClient(_url(program), log=StrictLog()) as tab:
        await tab.ask(QUICK.format("하나"))
        await tab.ask(QUICK.format("둘"))
        edited = await tab.ask(QUICK.format("하나 반"), replaces=1)
    assert edited.number == 3
    assert [turn.number for turn in tab.log.turns.values() if not turn.replaced] == [3]
