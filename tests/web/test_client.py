"""The client in Chromium, under the policy of our pages, with a real gateway."""

import asyncio
from pathlib import Path

from playwright.async_api import BrowserContext, Page, Route

from gateway.greeting import farewell
from tests.gateway.harness import Gateway, call_of, on_sockets, settings_for
from tests.llm.scripted import ScriptedModel
from tests.web.chatting import Client, asked, client, visit
from tests.web.conftest import run

ELSEWHERE = "http://localhost:9/"
"""A page of this machine that is not the gateway's."""


async def show(route: Route) -> None:
    """Show an empty page that no policy holds back."""
    await route.fulfill(body="<!doctype html>", content_type="text/html")


async def exchange(tab: Client, model: ScriptedModel, question: str, *pieces: str) -> None:
    """Ask, let the model reply, and wait for the end."""
    await tab.send(question)
    call = await call_of(model)
    for piece in pieces:
        await call.say(piece)
    await call.complete()
    await tab.next("complete")


async def test_a_message_is_answered(page: Page, served: Gateway, model: ScriptedModel) -> None:
    await visit(page, served.http.base_url)
    phone = await client(page)
    await exchange(phone, model, "안녕", "반가워요 ", "🙌")
    seen = await phone.look()
    [turn] = seen["turns"]
    assert (turn["user"]["content"], turn["reply"]["content"]) == ("안녕", "반가워요 🙌")
    assert (seen["state"], seen["cursor"], seen["outbox"]) == ("open", "1.1.end", [])
    assert await phone.shown() == served.replies()


async def test_two_clients_of_one_session_show_the_same(
    page: Page, served: Gateway, model: ScriptedModel
) -> None:
    await visit(page, served.http.base_url)
    phone = await client(page)
    session_id = (await phone.next("ready"))["session_id"]
    laptop = await client(page, "laptop", sessionId=session_id)
    await laptop.next("ready")
    await exchange(phone, model, "하나", "첫째 ", "답")
    await laptop.next("complete")
    await exchange(laptop, model, "둘", "둘째 답")
    await phone.next("complete", turn=2)
    phones, laptops = (await phone.look(), await laptop.look())
    assert phones["turns"] == laptops["turns"]
    assert phones["cursor"] == laptops["cursor"] == "2.1.end"
    assert await phone.shown() == served.replies()


async def test_a_session_is_opened_where_it_is_without_a_gap(
    page: Page, served: Gateway, model: ScriptedModel
) -> None:
    await visit(page, served.http.base_url)
    phone = await client(page)
    await exchange(phone, model, "하나", "첫째")
    await phone.send("둘")
    call = await call_of(model)
    await call.say("둘째 ")
    await phone.next("token", turn=2)
    laptop = await client(page, "laptop", sessionId=(await phone.look())["sessionId"])
    assert (await laptop.next("reset"))["cursor"] == "2.1.0"
    await call.say("답")
    await call.complete()
    await laptop.next("complete", turn=2)
    await phone.next("complete", turn=2)
    assert await laptop.shown() == await phone.shown() == served.replies()


async def test_a_cursor_that_is_not_honoured_is_replaced_by_the_history(
    page: Page, served: Gateway, model: ScriptedModel
) -> None:
    await visit(page, served.http.base_url)
    phone = await client(page)
    await exchange(phone, model, "하나", "첫째")
    session_id = (await phone.look())["sessionId"]
    for cursor in ("7.1.3", "nonsense", "1.1.99"):
        laptop = await client(page, cursor, sessionId=session_id, cursor=cursor)
        assert len((await laptop.next("reset"))["messages"]) == 2
        assert (await laptop.next("ready"))["cursor"] == "1.1.end"
        assert await laptop.shown() == served.replies()
    await exchange(laptop, model, "둘", "둘째")
    assert await laptop.shown() == served.replies()


async def test_an_edit_and_a_regeneration_replace_what_they_ask_again(
    page: Page, served: Gateway, model: ScriptedModel
) -> None:
    await visit(page, served.http.base_url)
    phone = await client(page)
    await exchange(phone, model, "하나", "첫째")
    await phone.send("하나 다시", replaces=1)
    await (await call_of(model)).complete()
    await phone.next("complete", turn=2)
    await phone.call("regenerate")
    await (await call_of(model)).complete()
    await phone.next("complete", turn=3)
    seen = await phone.look()
    assert [turn["turn"] for turn in seen["visible"]] == [3]
    everything = await phone.call("history", {"includeReplaced": True})
    loaded = """([name, page]) => {
        const conversation = new driver.midm.Conversation();
        conversation.load(page);
        const numbers = (turns) => turns.map(({ turn }) => turn);
        return [numbers(conversation.versions(3)), numbers(conversation.visible)];
    }"""
    assert await run(page, loaded, ["phone", everything]) == [[1, 2], [3]]
    assert asked(served) == ["하나", "하나 다시", "하나 다시"]


async def test_a_cancel_stops_the_open_turn(
    page: Page, served: Gateway, model: ScriptedModel
) -> None:
    await visit(page, served.http.base_url)
    phone = await client(page)
    await phone.send("안녕")
    call = await call_of(model)
    await call.say("반가")
    await phone.next("token")
    await phone.call("cancel")
    assert (await phone.next("complete"))["finish_reason"] == "cancelled"
    assert (await phone.look())["turns"][0]["status"] == "cancelled"


async def test_a_second_message_while_a_reply_is_written_is_given_back(
    page: Page, served: Gateway, model: ScriptedModel
) -> None:
    await visit(page, served.http.base_url)
    phone = await client(page)
    await phone.send("하나")
    call = await call_of(model)
    request_id = await phone.send("둘")
    refused = await phone.next("refused")
    assert (refused["message"], refused["error"]["code"]) == ("둘", "turn_in_progress")
    await call.complete()
    await phone.next("complete", turn=1)
    assert await phone.call("retry", request_id)
    await (await call_of(model)).complete()
    await phone.next("complete", turn=2)
    assert asked(served) == ["하나", "둘"]


async def test_a_full_queue_is_waited_for(page: Page, tmp_path: Path, model: ScriptedModel) -> None:
    settings = settings_for(tmp_path / "chat.db", model.url, llm_max_waiting=0)
    async with on_sockets(settings) as gateway:
        await visit(page, gateway.http.base_url)
        phone, laptop = await client(page), await client(page, "laptop")
        await phone.send("하나")
        call = await call_of(model)
        await laptop.send("둘")
        assert (await laptop.next("delayed"))["error"]["code"] == "queue_full"
        await call.complete()
        await (await call_of(model)).complete()
        await laptop.next("complete")
        assert asked(gateway) == ["하나", "둘"]


async def test_a_deleted_session_is_over(page: Page, served: Gateway) -> None:
    await visit(page, served.http.base_url)
    phone = await client(page)
    session_id = (await phone.next("ready"))["session_id"]
    await served.http.delete(f"/api/sessions/{session_id}")
    closed = await phone.next("state", state="closed")
    assert closed["closedBy"]["code"] == 4504
    late = await client(page, "late", sessionId=session_id, cursor="0.0.end")
    assert (await late.next("state", state="closed"))["closedBy"]["code"] == 4504
    later = await client(page, "later", sessionId=session_id)
    assert (await later.next("state", state="closed"))["closedBy"]["code"] == 4504


async def test_it_leaves_when_the_gateway_asks_it_to(page: Page, served: Gateway) -> None:
    await visit(page, served.http.base_url)
    phone = await client(page)
    await phone.next("ready")
    [connection] = served.house.connections
    connection.say(farewell().model_copy(update={"after_ms": 50}))
    await phone.next("reconnect")
    await phone.next("ready")
    assert (await phone.look())["state"] == "open"


async def test_a_page_from_elsewhere_on_this_machine_may_use_it(
    context: BrowserContext, served: Gateway, model: ScriptedModel
) -> None:
    await context.route(ELSEWHERE, show)
    page = await context.new_page()
    await page.goto(ELSEWHERE)
    script = """async (module) => {
        const { ChatClient } = await import(module);
        const chat = new ChatClient();  // of the gateway that the module came from
        chat.connect();
        chat.send("안녕");
        const ended = new Promise((resolve) => chat.addEventListener("complete", resolve));
        const { detail } = await ended;
        const page = await chat.history({ limit: 1 });
        chat.close();
        return [detail.finish_reason, page.messages[0].content];
    }"""
    module = str(served.http.base_url.join("/web/midm-chat.js"))
    heard = asyncio.create_task(run(page, script, module))
    call = await call_of(model)
    await call.say("반가워요")
    await call.complete()
    assert await heard == ["stop", "반가워요"]


async def test_a_worker_may_use_it(
    context: BrowserContext, served: Gateway, model: ScriptedModel
) -> None:
    await context.route(ELSEWHERE, show)
    page = await context.new_page()
    await page.goto(ELSEWHERE)
    script = """(module) => new Promise((resolve) => {
        const work = `import { ChatClient } from "${module}";
            const chat = new ChatClient();
            chat.addEventListener("complete", ({ detail }) => postMessage(detail.finish_reason));
            chat.connect();
            chat.send("안녕");`;
        const url = URL.createObjectURL(new Blob([work], { type: "text/javascript" }));
        new Worker(url, { type: "module" }).onmessage = ({ data }) => resolve(data);
    })"""
    module = str(served.http.base_url.join("/web/midm-chat.js"))
    heard = asyncio.create_task(run(page, script, module))
    await (await call_of(model)).complete()
    assert await heard == "stop"
