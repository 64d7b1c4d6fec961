"""Whatever happens to its connection, a client shows what is stored, and asked it once."""

from pathlib import Path
from random import Random

from playwright.async_api import Page

from tests.faults.killing import SEED, held_port
from tests.gateway.harness import Gateway, call_of
from tests.llm.scripted import ScriptedModel
from tests.web.chatting import Line, asked, client, visit
from tests.whole.processes import gateway as gateway_program
from tests.whole.proxy import forwarding

TALK = "#sim pieces=60 interval_ms=2 first_token_ms=1# {number}"


async def test_a_line_that_breaks_all_the_time_costs_nothing_but_time(
    page: Page, simulated: Gateway
) -> None:
    print(f"FAULTS_SEED={SEED}")
    dice = Random(f"{SEED}-client")
    line = Line()
    async with forwarding(str(simulated.http.base_url), line) as url:
        await visit(page, url)
        line.breaks = lambda data: b"HTTP/1.1 2" not in data and dice.random() < 0.07
        phone = await client(page)
        for number in range(1, 7):
            await phone.send(TALK.format(number=number))
            await phone.next("complete", turn=number)
    assert line.cuts >= 10
    assert await phone.shown() == simulated.replies()
    assert asked(simulated) == [TALK.format(number=number) for number in range(1, 7)]
    seen = await phone.look()
    assert seen["outbox"] == []
    assert seen["isInOrder"], "nothing came twice"
    assert list(seen["said"].values()) == [content for _, content in simulated.replies()]


async def test_a_message_whose_answer_was_lost_is_not_asked_twice(
    page: Page, served: Gateway, model: ScriptedModel
) -> None:
    line = Line()
    async with forwarding(str(served.http.base_url), line) as url:
        await visit(page, url)
        phone = await client(page)
        await phone.next("ready")
        line.breaks = lambda data: line.cuts < 3 and b'"type":"accepted"' in data
        await phone.send("안녕")
        call = await call_of(model)
        await call.say("반가워요")
        await call.complete()
        await phone.next("complete")
    assert line.cuts >= 1
    assert asked(served) == ["안녕"]
    assert await phone.shown() == served.replies() == [("stop", "반가워요")]


async def test_a_page_that_is_reloaded_before_the_answer_came_asks_once(
    page: Page, served: Gateway, model: ScriptedModel
) -> None:
    line = Line()
    async with forwarding(str(served.http.base_url), line) as url:
        await visit(page, url)
        phone = await client(page)
        await phone.next("ready")
        line.breaks = lambda data: b'{"type":"' in data
        await phone.send("안녕")
        call = await call_of(model)
        await phone.next("state", state="waiting")
        kept = await phone.look()
        line.breaks = lambda data: False
        await visit(page, url)
        fields = {name: kept[name] for name in ("sessionId", "outbox")}
        again = await client(page, "again", **fields)
        await again.next("accepted", duplicate=True)
        await call.say("반가워요")
        await call.complete()
        await again.next("complete")
    assert len(kept["outbox"]) == 1
    assert (await again.look())["outbox"] == []
    assert asked(served) == ["안녕"]
    assert await again.shown() == served.replies()


async def test_a_line_that_falls_silent_is_given_up(
    page: Page, served: Gateway, model: ScriptedModel
) -> None:
    line = Line()
    async with forwarding(str(served.http.base_url), line) as url:
        await visit(page, url)
        # Two heartbeats and this are no time at all.
        phone = await client(page, timing={"silenceMs": 200 - 2 * 25_000, "connectMs": 200})
        await phone.next("ready")
        line.is_silent = True
        await phone.next("state", state="waiting")
        await phone.next("state", state="waiting")
        line.is_silent = False
        await phone.next("ready")


async def test_a_gateway_that_dies_in_the_middle_of_a_reply_is_waited_for(
    page: Page, tmp_path: Path
) -> None:
    with held_port() as port:
        settings = {"PORT": str(port), "DATABASE_URL": "chat.db"}
        async with gateway_program(tmp_path, **settings) as program:
            await visit(page, program.url)
            phone = await client(page)
            text = "#sim pieces=40 interval_ms=10 first_token_ms=1# 안녕"
            await phone.send(text)
            await phone.next("token")
        await phone.next("state", state="waiting")
        async with gateway_program(tmp_path, **settings) as program:
            assert (await phone.next("start"))["attempt"] == 2
            await phone.next("complete")
            page_of_history = await phone.call("history")
            replies = [m["content"] for m in page_of_history["messages"] if m["role"] != "user"]
            assert [content for _, content in await phone.shown()] == replies
            assert page_of_history["total_count"] == 2
            assert await program.stop() == 0


async def test_a_phone_without_a_network_says_so_and_comes_back_at_once(
    page: Page, served: Gateway, model: ScriptedModel
) -> None:
    line = Line()
    async with forwarding(str(served.http.base_url), line) as url:
        await visit(page, url)
        hour = 3_600_000
        phone = await client(page, timing={"backoffBaseMs": hour, "backoffCapMs": hour})
        await phone.next("ready")
        await phone.send("안녕")
        call = await call_of(model)
        await call.say("반가")
        await phone.next("token")
        await page.context.set_offline(True)
        line.breaks = lambda data: True
        await call.say("워요")
        await phone.next("state", state="offline")
        line.breaks = lambda data: False
        await page.context.set_offline(False)
        await phone.next("ready")
        await call.complete()
        await phone.next("complete")
    assert await phone.shown() == served.replies() == [("stop", "반가워요")]
