"""Long conversations, searching, exporting, and the list of conversations."""

import json
from urllib.parse import parse_qs, urlsplit

from playwright.async_api import Route, expect

from tests.gateway.harness import Gateway
from tests.llm.scripted import ScriptedModel
from tests.web.page.conftest import Visit
from tests.web.page.reader import Reader
from tests.web.page.test_chat import exchange


async def long_conversation(served: Gateway, model: ScriptedModel, turns: int) -> str:
    """Have a conversation of so many turns; return its session."""
    model.autoreply(lambda messages: [f"Reply to {messages[-1]['content']}.\n\nMore text.\n\nEnd."])
    session_id: str = (await served.http.post("/api/sessions", json={})).json()["session_id"]
    for number in range(1, turns + 1):
        body = {"session_id": session_id, "message": f"question {number}"}
        (await served.http.post("/api/chat", json=body)).raise_for_status()
    return session_id


async def open_session(reader: Reader, session_id: str) -> None:
    await reader.page.goto(f"{reader.url}#/{session_id}")


async def test_older_messages_come_as_one_scrolls_up(
    served: Gateway, model: ScriptedModel, visit: Visit
) -> None:
    session_id = await long_conversation(served, model, 70)
    reader = await visit(served)
    await open_session(reader, session_id)
    await reader.sees("Reply to question 70.")
    await expect(reader.turns).to_have_count(30)
    await reader.until("(s => s.scrollHeight - s.clientHeight - s.scrollTop < 5)(scroller)")
    place = """() => Math.round(
      document.querySelector("[data-turn='43']").getBoundingClientRect().top)"""
    before = await reader.page.evaluate(f"(scroller.scrollTop = 300, ({place})())")
    await expect(reader.turns).to_have_count(60)
    # What was read stays where it was.
    await expect(reader.page.locator("#older")).to_be_hidden()
    assert abs(await reader.page.evaluate(place) - before) <= 2
    await reader.page.evaluate("scroller.scrollTop = 0")
    await expect(reader.turns).to_have_count(70)
    numbers = await reader.turns.evaluate_all("all => all.map((one) => Number(one.dataset.turn))")
    assert numbers == list(range(1, 71))


async def test_a_search_leads_to_a_message_that_was_not_loaded(
    served: Gateway, model: ScriptedModel, visit: Visit
) -> None:
    session_id = await long_conversation(served, model, 50)
    found = (await served.http.get(f"/api/sessions/{session_id}/messages?limit=100")).json()
    held = [m for m in found["messages"] if "question 3" in m["content"]][:2]
    reader = await visit(served)

    async def search(route: Route) -> None:
        # Newest first, a page at a time; one of them is empty, and yet not the last.
        pages = {None: (held[1:], "a"), "a": ([], "b"), "b": (held[:1], None)}
        query = parse_qs(urlsplit(route.request.url).query)
        messages, following = pages[query.get("before", [None])[0]]
        page = {**found, "messages": messages, "next_before": following, "cursor": None}
        await route.fulfill(json=page)

    await reader.page.route("**/messages?q=*", search)
    await open_session(reader, session_id)
    await reader.sees("Reply to question 50.")
    await reader.page.keyboard.press("Control+Shift+f")
    await reader.page.locator("#finder-input").fill("QUESTION 3")
    hits = reader.page.locator("#finder li button")
    await expect(hits).to_have_count(2)
    await expect(hits.first.locator("mark")).to_have_text(["question", "3"])
    await hits.last.click()
    await expect(reader.page.locator("[data-turn='3']")).to_be_in_viewport()
    await reader.page.locator("#finder-input").press("Escape")
    await expect(reader.page.locator("#finder")).to_be_hidden()


async def test_older_messages_that_do_not_come_are_asked_for_again(
    served: Gateway, model: ScriptedModel, visit: Visit
) -> None:
    session_id = await long_conversation(served, model, 40)
    reader = await visit(served, expected=("net::ERR",))
    await reader.page.clock.install()
    await open_session(reader, session_id)
    await expect(reader.turns).to_have_count(30)
    await reader.page.route("**/messages?before=*", lambda route: route.abort(), times=1)
    async with reader.page.expect_event("requestfailed"):
        await reader.page.evaluate("scroller.scrollTop = 0")
    await reader.until("document.querySelector('#older').hidden")
    await reader.page.clock.run_for(3_000)
    await expect(reader.turns).to_have_count(40)


async def test_a_hit_that_is_being_loaded_already_is_shown(
    served: Gateway, model: ScriptedModel, visit: Visit
) -> None:
    session_id = await long_conversation(served, model, 40)
    reader = await visit(served)
    await open_session(reader, session_id)
    await expect(reader.turns).to_have_count(30)
    held: list[Route] = []
    await reader.page.route("**/messages?before=*", lambda route: held.append(route))
    async with reader.page.expect_request("**/messages?before=*"):
        await reader.page.evaluate("scroller.scrollTop = 0")
    await reader.page.locator("#search-open").click()
    await reader.page.locator("#finder-input").fill("question 3.")
    hits = reader.page.locator("#finder li button")
    await expect(hits).to_have_count(4)  # "3." is the end of 13, 23 and 33, too
    await hits.last.click()
    await held[0].continue_()
    await expect(reader.page.locator("[data-turn='3']")).to_be_in_viewport()


async def test_messages_that_belong_to_no_turn_are_shown_and_found(
    served: Gateway, model: ScriptedModel, visit: Visit
) -> None:
    session_id = await long_conversation(served, model, 1)
    stray = {"message_id": "stray", "session_id": session_id, "turn": None, "token_usage": None}
    told = {"created_at": "2026-01-01T00:00:00Z", "finish_reason": None}
    lines = [
        {**stray, **told, "role": "system", "content": "**Be** brief."},
        {**stray, **told, "role": "user", "message_id": "other", "content": "Anybody?"},
    ]

    async def adopted(route: Route) -> None:
        page = await (await route.fetch()).json()
        await route.fulfill(json={**page, "messages": [*lines, *page["messages"]]})

    reader = await visit(served)

    async def search(route: Route) -> None:
        # As the real one answers: without a cursor, and only what holds the word.
        page = {"messages": [lines[1]], "total_count": 4, "next_before": None, "cursor": None}
        await route.fulfill(json={"session_id": session_id, **page})

    await reader.page.route("**/messages?*", adopted)
    await reader.page.route("**/messages?q=*", search)
    await open_session(reader, session_id)
    await reader.sees("Reply to question 1.")
    await expect(reader.turns).to_have_count(3)
    system = reader.page.locator("[data-turn='stray']")
    await expect(system.locator("strong")).to_have_text("Be")
    await expect(system.locator(".regenerate, .details, .ask")).to_have_count(3)
    for name in ("regenerate", "details", "ask"):
        await expect(system.locator(f".{name}")).to_be_hidden()
    await reader.page.locator("#search-open").click()
    await reader.page.locator("#finder-input").fill("anybody")
    await reader.page.locator("#finder li button").click()
    await expect(reader.page.locator("[data-turn='other']")).to_have_class("turn found")


async def test_the_gateway_finds_and_the_page_shows_where(
    served: Gateway, model: ScriptedModel, visit: Visit
) -> None:
    reader = await visit(served, expected=("503",))
    await exchange(reader, model, "İstanbul의 날씨는?", "오늘 STRASSE 날씨는 <b>맑음</b>")
    await reader.page.locator("#search-open").click()
    finder, count = reader.page.locator("#finder-input"), reader.page.locator("#finder .count")
    marks = reader.page.locator("#finder mark")
    await finder.fill("날씨")
    await expect(count).to_have_text("2 found")
    await expect(marks).to_have_text(["날씨", "날씨"])
    await finder.fill("맑 straße")  # of several words each is marked, however it is written
    await expect(marks).to_have_text(["STRASSE", "맑"])
    await finder.fill("plums")
    await expect(count).to_have_text("Nothing found.")
    await reader.page.route("**/messages?q=*", lambda route: route.fulfill(status=503, json={}))
    await finder.fill("pears")
    await expect(count).to_contain_text("did not work")


async def test_what_is_found_too_late_is_not_shown(
    served: Gateway, model: ScriptedModel, visit: Visit
) -> None:
    reader = await visit(served)
    await exchange(reader, model, "apples", "pears")
    asked: list[Route] = []
    await reader.page.route("**/messages?q=*", lambda route: asked.append(route))
    await reader.page.locator("#search-open").click()
    async with reader.page.expect_request("**/messages?q=*"):
        await reader.page.locator("#finder-input").fill("apples")
    await reader.page.locator("#finder-input").press("Escape")
    async with reader.page.expect_response("**/messages?q=*"):
        await asked[0].continue_()
    # What is asked for later comes later.
    await reader.page.evaluate("fetch('api/health').then((answer) => answer.json())")
    await reader.page.locator("#search-open").click()
    await expect(reader.page.locator("#finder li")).to_have_count(0)


async def test_a_conversation_is_saved_as_a_file(
    served: Gateway, model: ScriptedModel, visit: Visit
) -> None:
    reader = await visit(served)
    await exchange(reader, model, "나의 질문?", "reply")
    saved = {}
    for choice in ("JSON Lines", "Markdown"):
        await reader.page.locator("#export").click()
        async with reader.page.expect_download() as downloading:
            await reader.page.get_by_role("button", name=choice).click()
        download = await downloading.value
        saved[download.suggested_filename] = (await download.path()).read_text()
    assert list(saved) == ["나의-질문.jsonl", "나의-질문.md"]
    lines = [json.loads(line) for line in saved["나의-질문.jsonl"].splitlines()]
    assert [line["content"] for line in lines] == ["나의 질문?", "reply"]
    assert "> 나의 질문?" in saved["나의-질문.md"]


async def test_an_export_that_fails_says_why(
    served: Gateway, model: ScriptedModel, visit: Visit
) -> None:
    reader = await visit(served, expected=("404", "net::ERR"))
    await exchange(reader, model, "question", "reply")
    gone = {"code": "session_not_found"}
    await reader.page.route("**/export?*", lambda route: route.fulfill(status=404, json=gone))
    for why in ("does not exist", "did not work"):
        await reader.page.locator("#export").click()
        await reader.page.get_by_role("button", name="Markdown").click()
        await expect(reader.notice).to_contain_text(why)
        await reader.page.route("**/export?*", lambda route: route.abort())


async def test_conversations_are_listed_renamed_opened_and_deleted(
    served: Gateway, model: ScriptedModel, visit: Visit
) -> None:
    reader = await visit(served)
    await exchange(reader, model, "apples", "green")
    await reader.page.locator("#new-chat").click()
    await expect(reader.page.locator("#welcome")).to_be_visible()
    await exchange(reader, model, "pears", "yellow")
    names = reader.page.locator("#sessions .name")
    await expect(names).to_have_text(["pears", "apples"])
    other = await reader.second_tab()
    apples = reader.page.locator("#sessions li", has_text="apples")
    await apples.hover()
    await apples.get_by_role("button", name="Rename").click()
    await reader.page.keyboard.type("사과")
    await reader.page.keyboard.press("Enter")
    await expect(other.page.locator("#sessions .name")).to_have_text(["pears", "사과"])
    await reader.page.get_by_text("사과").click()
    await reader.sees("green")
    await expect(reader.page.locator("#title")).to_have_text("사과")
    await reader.page.go_back()
    await reader.sees("yellow")
    pears = other.page.locator("#sessions li", has_text="pears")
    await pears.hover()
    await pears.get_by_role("button", name="Delete").click()
    await expect(other.page.locator("#ask")).to_contain_text("“pears”")
    await other.page.get_by_role("button", name="Cancel").click()
    await expect(other.page.locator("#sessions li")).to_have_count(2)
    await pears.hover()
    await pears.get_by_role("button", name="Delete").click()
    await other.page.locator("#ask .danger").click()
    await expect(other.page.locator("#welcome")).to_be_visible()
    await expect(names).to_have_text(["사과"])
    # The tab that shows it is told.
    await expect(reader.page.locator("#gone")).to_contain_text("no longer there")
