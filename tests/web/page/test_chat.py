"""Asking, reading along, stopping, asking again, and finding the way back."""

from playwright.async_api import expect

from tests.gateway.harness import Gateway, call_of
from tests.llm.scripted import Call, ScriptedModel
from tests.web.page.conftest import Visit
from tests.web.page.reader import Reader


async def answer(model: ScriptedModel, *pieces: str) -> Call:
    call = await call_of(model)
    await call.say(*pieces)
    await call.complete()
    return call


async def exchange(reader: Reader, model: ScriptedModel, question: str, reply: str) -> None:
    await reader.ask(question)
    await answer(model, reply)
    await reader.sees(reply)
    await reader.is_done()


async def test_a_reply_appears_while_it_is_written(
    served: Gateway, visit: Visit, model: ScriptedModel
) -> None:
    reader = await visit(served)
    await expect(reader.page.locator("#welcome")).to_be_visible()
    await reader.ask("안녕하세요")
    await expect(reader.question).to_have_text("안녕하세요")
    await expect(reader.box).to_have_value("")
    call = await call_of(model)
    assert call.messages[-1]["content"] == "안녕하세요"
    await expect(reader.button("state")).to_have_text("Thinking…")
    await call.say("반갑", "습니다")
    await reader.sees("반갑습니다")
    await expect(reader.page.locator("#stop")).to_be_visible()
    await call.say(", **친구**")
    await call.complete()
    await reader.is_done()
    await expect(reader.reply.locator("strong")).to_have_text("친구")
    await expect(reader.page.locator("#title")).to_have_text("안녕하세요")
    await expect(reader.page.locator("#welcome")).to_be_hidden()
    await expect(reader.page.locator("#sessions a")).to_have_text("안녕하세요")


async def test_stopping_keeps_what_was_written(
    served: Gateway, visit: Visit, model: ScriptedModel
) -> None:
    reader = await visit(served)
    await reader.ask("tell me everything")
    call = await call_of(model)
    await call.say("First of all")
    await reader.sees("First of all")
    await reader.page.locator("#stop").click()
    await expect(reader.button("state")).to_have_text("You stopped this reply.")
    await reader.is_done()
    await reader.sees("First of all")
    await reader.reload()
    await reader.sees("First of all")
    await expect(reader.button("state")).to_have_text("You stopped this reply.")


async def test_another_reply_can_be_had_and_the_first_one_seen_again(
    served: Gateway, visit: Visit, model: ScriptedModel
) -> None:
    reader = await visit(served)
    await exchange(reader, model, "a number", "one")
    await reader.button("regenerate").click()
    await answer(model, "two")
    await reader.sees("two")
    await reader.is_done()
    await expect(reader.turns).to_have_count(1)
    await expect(reader.button("which")).to_have_text("2/2")
    await reader.button("older").click()
    await reader.sees("one")
    await expect(reader.button("past")).to_be_visible()
    await expect(reader.button("regenerate")).to_be_hidden()
    await reader.button("newer").click()
    await reader.sees("two")


async def test_an_edited_question_hides_what_followed_and_leads_back_to_it(
    served: Gateway, visit: Visit, model: ScriptedModel
) -> None:
    reader = await visit(served)
    await exchange(reader, model, "first", "reply to first")
    await exchange(reader, model, "second", "reply to second")
    await reader.box.fill("not to be lost")
    first = reader.turns.first
    await first.hover()
    await first.locator(".edit").click()
    await expect(reader.box).to_have_value("first")
    await reader.ask("first, but better")
    call = await answer(model, "reply to better")
    assert [one["content"] for one in call.messages if one["role"] == "user"] == [
        "first, but better"
    ]
    await reader.sees("reply to better")
    await expect(reader.turns).to_have_count(1)
    await expect(reader.box).to_have_value("not to be lost")
    for _ in range(2):  # as it is, and as it is loaded anew
        await expect(reader.button("which")).to_have_text("2/2")
        await reader.button("older").click()
        texts = await reader.last.locator(".said, .prose").all_inner_texts()
        assert texts == ["first", "reply to first", "second", "reply to second"]
        await reader.page.get_by_text("Back to the newest").first.click()
        await reader.sees("reply to better")
        await reader.is_done()
        await reader.reload()
        await reader.sees("reply to better")
    # What came after the newest version has nothing to do with an older one.
    await exchange(reader, model, "third", "reply to third")
    await reader.turns.first.locator(".older").click()
    texts = await reader.page.locator("#turns .said, #turns .prose").all_inner_texts()
    assert texts == ["first", "reply to first", "second", "reply to second"]


async def test_a_new_message_leaves_an_old_version(
    served: Gateway, visit: Visit, model: ScriptedModel
) -> None:
    reader = await visit(served)
    await exchange(reader, model, "a number", "one")
    await reader.button("regenerate").click()
    await answer(model, "two")
    await reader.sees("two")
    await reader.is_done()
    await reader.button("older").click()
    await reader.sees("one")
    await exchange(reader, model, "and now?", "three")
    texts = await reader.page.locator(".said, .prose").all_inner_texts()
    assert texts == ["a number", "two", "and now?", "three"]


async def test_a_reload_in_the_middle_of_a_reply_loses_nothing(
    served: Gateway, visit: Visit, model: ScriptedModel
) -> None:
    reader = await visit(served)
    await reader.ask("count")
    call = await call_of(model)
    await call.say("one, ", "two, ")
    await reader.sees("one, two,")
    await reader.reload()
    await reader.sees("one, two,")
    await call.say("three")
    await reader.sees("one, two, three")
    await call.complete()
    await reader.is_done()
    assert await reader.reply.inner_text() == "one, two, three"
    await expect(reader.turns).to_have_count(1)


async def test_two_tabs_show_the_same(served: Gateway, visit: Visit, model: ScriptedModel) -> None:
    reader = await visit(served)
    await reader.ask("count")
    call = await call_of(model)
    await call.say("one, ")
    await reader.sees("one,")
    other = await reader.second_tab()
    await other.sees("one,")
    await call.say("two")
    await call.complete()
    for tab in (reader, other):
        await tab.sees("one, two")
        await tab.is_done()
        await expect(tab.question).to_have_text("count")
    await exchange(other, model, "more", "three")
    await reader.sees("three")
    await expect(reader.turns).to_have_count(2)
    await other.button("regenerate").click()
    call = await call_of(model)
    await call.say("four")
    await reader.sees("four")
    await reader.page.locator("#stop").click()
    await expect(other.button("state")).to_have_text("You stopped this reply.")


async def test_each_part_can_be_copied(served: Gateway, visit: Visit, model: ScriptedModel) -> None:
    reader = await visit(served, permissions=["clipboard-read", "clipboard-write"])
    reply = "# Title\n\n- **one**\n\n```js\nlet a = 1;\n```"
    await reader.ask("  as it is\n")
    await answer(model, reply)
    await reader.sees("let a = 1;")
    await reader.is_done()
    for name, text in (("copy", reply), ("copy-ask", "  as it is\n")):
        await reader.last.hover()
        await reader.button(name).click()
        await expect(reader.last.locator(f".{name}.done")).to_be_visible()
        assert await reader.page.evaluate("navigator.clipboard.readText()") == text


async def test_the_figures_of_a_reply_are_there_for_who_wants_them(
    served: Gateway, visit: Visit, model: ScriptedModel
) -> None:
    reader = await visit(served)
    await exchange(reader, model, "a number", "seven")
    await reader.button("details").click()
    details = reader.page.locator("#details-dialog")
    for text in ("First words after", "Whole reply", "Characters5", "Ended byItself", "1.1.end"):
        await expect(details).to_contain_text(text)
    await reader.page.keyboard.press("Escape")
    await expect(details).to_be_hidden()


async def test_the_page_scrolls_along_only_for_who_is_at_the_end(
    served: Gateway, visit: Visit, model: ScriptedModel
) -> None:
    reader = await visit(served, viewport={"width": 800, "height": 500})
    await reader.ask("a long one")
    call = await call_of(model)
    from_end = (
        "(s => s.scrollHeight - s.clientHeight - s.scrollTop)(document.querySelector('#scroller'))"
    )
    await call.say(*("A line of text.\n\n" for _ in range(40)), "mark one")
    await reader.sees("mark one")
    await reader.until(f"{from_end} < 5")
    await reader.page.locator("#scroller").hover()
    await reader.page.mouse.wheel(0, -600)
    await reader.until(f"{from_end} > 300")
    await expect(reader.page.locator("#newest")).to_be_visible()
    top = await reader.page.evaluate("document.querySelector('#scroller').scrollTop")
    await call.say(*("Another line.\n\n" for _ in range(20)), "mark two")
    await call.complete()
    await reader.is_done()
    await reader.sees("mark two")
    assert await reader.page.evaluate("document.querySelector('#scroller').scrollTop") == top
    await reader.page.locator("#newest").click()
    await reader.until(f"{from_end} < 5")
    await expect(reader.page.locator("#newest")).to_be_hidden()
