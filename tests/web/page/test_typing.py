"""Keys, input methods and drafts."""

from typing import Any

import pytest
from playwright.async_api import CDPSession, expect

from tests.gateway.harness import Gateway, call_of
from tests.llm.scripted import ScriptedModel
from tests.web.page.conftest import Visit
from tests.web.page.reader import Reader
from tests.web.page.test_chat import exchange

KEYDOWN = """(init) => {
  const event = new KeyboardEvent("keydown", { bubbles: true, cancelable: true, ...init });
  if (init.keyCode) Object.defineProperty(event, "keyCode", { value: init.keyCode });
  document.querySelector("#box").dispatchEvent(event);
  return event.defaultPrevented;
}"""


async def keyboard(reader: Reader) -> CDPSession:
    await reader.box.focus()
    return await reader.page.context.new_cdp_session(reader.page)


async def compose(cdp: CDPSession, *stages: str) -> None:
    """Compose as a Korean input method does: each stage replaces the one before."""
    for text in stages:
        place = {"selectionStart": len(text), "selectionEnd": len(text)}
        await cdp.send("Input.imeSetComposition", {"text": text, **place})


async def press_enter(reader: Reader, **init: Any) -> bool:
    prevented: bool = await reader.page.evaluate(KEYDOWN, {"key": "Enter", **init})
    return prevented


async def test_enter_within_a_syllable_sends_nothing_and_the_next_one_sends_all_of_it_once(
    served: Gateway, visit: Visit, model: ScriptedModel
) -> None:
    reader = await visit(served)
    cdp = await keyboard(reader)
    await cdp.send("Input.insertText", {"text": "안녕하세"})
    await compose(cdp, "ㅇ", "요")
    # Chrome and Firefox tell that it composes; Chrome gives the key no code of its own.
    assert not await press_enter(reader, isComposing=True, keyCode=229)
    assert not await press_enter(reader, isComposing=True)
    await expect(reader.box).to_have_value("안녕하세요")
    await cdp.send("Input.insertText", {"text": "요"})  # the composition ends
    # Safari has ended the composition by then, and tells by the code alone.
    assert not await press_enter(reader, keyCode=229)
    await expect(reader.turns).to_have_count(0)
    assert await press_enter(reader, keyCode=13)
    await press_enter(reader, keyCode=13)  # the box is empty: nothing goes twice
    call = await call_of(model)
    assert call.messages[-1]["content"] == "안녕하세요"
    await call.complete()
    await reader.is_done()
    await expect(reader.box).to_have_value("")
    await expect(reader.turns).to_have_count(1)
    assert model.connections > 0


async def test_a_composition_is_known_where_the_event_does_not_tell(
    served: Gateway, visit: Visit
) -> None:
    reader = await visit(served)
    cdp = await keyboard(reader)
    await compose(cdp, "ㅎ", "하", "한")
    assert not await press_enter(reader, keyCode=13)
    await expect(reader.turns).to_have_count(0)
    await expect(reader.box).to_have_value("한")


@pytest.mark.parametrize(
    "press",
    [
        "document.querySelector('#send').click()",
        # A phone keeps the focus in the box when a button is touched.
        "document.querySelector('#composer').requestSubmit()",
    ],
)
async def test_the_button_sends_the_last_syllable_too(
    served: Gateway, model: ScriptedModel, visit: Visit, press: str
) -> None:
    reader = await visit(served)
    cdp = await keyboard(reader)
    await reader.page.evaluate(
        "box.addEventListener('compositionend', () => (globalThis.ended = box.value))"
    )
    await cdp.send("Input.insertText", {"text": "서울 날"})
    await compose(cdp, "ㅆ", "씨")
    await reader.page.evaluate(press)
    call = await call_of(model)
    assert call.messages[-1]["content"] == "서울 날씨"
    await call.complete()
    await reader.is_done()
    await expect(reader.box).to_have_value("")
    # The input method was done with the syllable before the box was emptied: it brings none back.
    assert await reader.page.evaluate("globalThis.ended") == "서울 날씨"


async def test_everything_can_be_done_by_keyboard(
    served: Gateway, visit: Visit, model: ScriptedModel
) -> None:
    reader = await visit(served)
    keys = reader.page.keyboard
    await reader.box.focus()
    await keys.type("first line")
    await keys.press("Shift+Enter")
    await keys.type("second line")
    await keys.press("Enter")
    call = await call_of(model)
    assert call.messages[-1]["content"] == "first line\nsecond line"
    await call.say("a long rep")
    await reader.sees("a long rep")
    await keys.press("Escape")
    await expect(reader.button("state")).to_have_text("You stopped this reply.")
    await reader.is_done()
    await keys.press("ArrowUp")
    await expect(reader.box).to_have_value("first line\nsecond line")
    await keys.press("Escape")
    await expect(reader.box).to_have_value("")
    await reader.page.evaluate("document.activeElement.blur()")
    await keys.press("?")
    await expect(reader.page.locator("#help-dialog")).to_be_visible()
    await keys.press("Escape")
    await keys.press("/")
    await expect(reader.box).to_be_focused()
    await keys.type("what/is?this")
    await expect(reader.box).to_have_value("what/is?this")
    await keys.press("Control+k")
    await expect(reader.page.locator("#welcome")).to_be_visible()
    await expect(reader.box).to_be_focused()
    await keys.press("Control+b")
    await expect(reader.page.locator("#sidebar")).to_be_hidden()
    await keys.press("Control+b")
    await expect(reader.page.locator("#sidebar-close")).to_be_focused()


async def test_each_control_is_reached_by_tab_and_named(
    served: Gateway, visit: Visit, model: ScriptedModel
) -> None:
    reader = await visit(served)
    await exchange(reader, model, "question", "reply")
    await reader.page.evaluate("document.activeElement.blur()")
    reached = []
    name = "(e => e.getAttribute('aria-label') || e.textContent.trim())(document.activeElement)"
    for _ in range(30):
        await reader.page.keyboard.press("Tab")
        reached.append(await reader.page.evaluate(name))
    for wanted in (
        "Skip to the message box",
        "New chat",
        "question",
        "Rename",
        "Delete",
        "API key",
        "Keyboard and help",
        "Search this conversation",
        "Export this conversation",
        "Copy",
        "Edit and ask again",
        "Copy the reply",
        "Ask again",
        "Details",
        "Message",
    ):
        assert wanted in reached
    assert "" not in reached[:20]


async def test_a_draft_outlives_a_reload_and_belongs_to_its_conversation(
    served: Gateway, visit: Visit, model: ScriptedModel
) -> None:
    reader = await visit(served)
    await exchange(reader, model, "question", "reply")
    await reader.box.fill("half a thought")
    await reader.page.locator("#new-chat").click()
    await expect(reader.box).to_have_value("")
    await reader.box.fill("another one")
    await reader.reload()
    await expect(reader.box).to_have_value("another one")
    await reader.page.locator("#sessions a").click()
    await expect(reader.box).to_have_value("half a thought")
    await reader.reload()
    await expect(reader.box).to_have_value("half a thought")


async def test_while_a_reply_is_written_the_next_message_waits_in_the_box(
    served: Gateway, visit: Visit, model: ScriptedModel
) -> None:
    reader = await visit(served)
    await reader.ask("one")
    call = await call_of(model)
    await call.say("reply")
    await reader.sees("reply")
    await reader.ask("two")
    await expect(reader.notice).to_have_text("Wait until the reply is finished, or stop it.")
    await expect(reader.box).to_have_value("two")
    await call.complete()
    await reader.is_done()
    await reader.box.press("Enter")
    call = await call_of(model)
    assert call.messages[-1]["content"] == "two"
    await call.complete()


async def test_a_message_that_is_too_long_is_counted_and_not_sent(
    served: Gateway, visit: Visit, model: ScriptedModel
) -> None:
    reader = await visit(served)
    await exchange(reader, model, "short", "reply")
    await reader.box.fill("한" * 31_990)
    await expect(reader.page.locator("#counter")).to_have_text("31,990 of 32,000 characters")
    await reader.box.fill("😀" * 32_000)
    await expect(reader.page.locator("#send")).to_be_enabled()
    await reader.box.fill("😀" * 32_001)
    await expect(reader.page.locator("#send")).to_be_disabled()
    await reader.box.press("Enter")
    await expect(reader.turns).to_have_count(1)


async def test_the_skip_link_leads_to_the_box_and_not_to_another_conversation(
    served: Gateway, visit: Visit, model: ScriptedModel
) -> None:
    reader = await visit(served)
    await exchange(reader, model, "question", "reply")
    await reader.page.evaluate("document.activeElement.blur(), scroller.focus()")
    await reader.page.locator(".skip").focus()
    await reader.page.keyboard.press("Enter")
    await expect(reader.box).to_be_focused()
    await reader.sees("reply")
    await reader.page.evaluate("location.hash = 'box'")  # no address of a conversation
    await expect(reader.page.locator("#welcome")).to_be_visible()


async def test_escape_closes_the_drawer_and_stops_no_reply(
    served: Gateway, visit: Visit, model: ScriptedModel
) -> None:
    reader = await visit(served, viewport={"width": 390, "height": 780})
    await reader.ask("question")
    call = await call_of(model)
    await call.say("one, ")
    await reader.sees("one,")
    await reader.page.locator("#sidebar-open").click()
    await reader.page.keyboard.press("Escape")
    await expect(reader.page.locator("#sidebar")).to_be_hidden()
    await call.say("two")
    await call.complete()
    await reader.sees("one, two")
    await reader.is_done()
    await expect(reader.last.locator(".state")).to_be_hidden()


async def test_the_list_keeps_the_focus_of_who_uses_it_by_keyboard(
    served: Gateway, visit: Visit, model: ScriptedModel
) -> None:
    reader = await visit(served)
    await exchange(reader, model, "older", "reply")
    await reader.page.keyboard.press("Control+k")
    await exchange(reader, model, "newer", "reply")
    rows = reader.page.locator("#sessions li")
    await rows.last.locator("a").press("Enter")
    await expect(rows.last).to_have_class("current")
    await expect(rows.last.locator("a")).to_be_focused()
    await rows.last.locator(".rename").press("Enter")
    await reader.page.keyboard.type("renamed")
    await reader.page.keyboard.press("Enter")
    await expect(rows.last.locator("a")).to_be_focused()
    await expect(rows.last).to_have_text("renamed")
