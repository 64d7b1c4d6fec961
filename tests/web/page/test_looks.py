"""Small screens, colours, languages, and readers who listen instead of looking."""

import pytest
from playwright.async_api import expect

from tests.gateway.harness import Gateway, call_of
from tests.llm.scripted import ScriptedModel
from tests.web.page.conftest import Visit
from tests.web.page.test_chat import exchange

WIDE = (
    "한글" * 80
    + "\n\n```\n"
    + "x" * 300
    + "\n```\n\n|"
    + "a long head|" * 8
    + "\n|"
    + "-|" * 8
    + "\n|"
    + "cell|" * 8
)


async def test_nothing_is_wider_than_a_small_phone(
    served: Gateway, model: ScriptedModel, visit: Visit
) -> None:
    reader = await visit(served, viewport={"width": 360, "height": 640}, locale="ko-KR")
    await reader.ask("가" * 300 + " " + "w" * 200)
    call = await call_of(model)
    await call.say(WIDE)
    await call.complete()
    await reader.sees("cell")
    await reader.is_done()
    widest = """() => Math.max(...[...document.querySelectorAll(
      "html, body, #app, #main, #scroller, #dock")].map((one) => one.scrollWidth))"""
    assert await reader.page.evaluate(widest) <= 360
    sidebar = reader.page.locator("#sidebar")
    await expect(sidebar).to_be_hidden()
    await reader.page.locator("#sidebar-open").click()
    await expect(reader.page.locator("#sessions a")).to_be_in_viewport()
    await expect(reader.page.locator("#sidebar-close")).to_be_focused()
    await reader.page.keyboard.press("Escape")
    await expect(sidebar).to_be_hidden()
    await expect(reader.page.locator("#sidebar-open")).to_be_focused()
    await reader.page.locator("#sidebar-open").click()
    await reader.page.locator("#new-chat").click()
    await expect(sidebar).to_be_hidden()
    await expect(reader.page.locator("#welcome")).to_be_visible()
    assert await reader.page.evaluate(widest) <= 360


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_colours_are_those_of_the_system_until_they_are_chosen(
    served: Gateway, visit: Visit, scheme: str
) -> None:
    reader = await visit(served, color_scheme=scheme)
    root = reader.page.locator("html")
    await expect(root).to_have_attribute("data-theme", scheme)
    button = reader.page.locator("#theme")
    await button.click()
    await expect(root).to_have_attribute("data-theme", "light")
    await button.click()
    await expect(root).to_have_attribute("data-theme", "dark")
    await expect(button).to_have_attribute("aria-label", "Colours: dark")
    await reader.reload()
    await expect(root).to_have_attribute("data-theme", "dark")
    await button.click()
    await expect(root).to_have_attribute("data-theme", scheme)


@pytest.mark.parametrize(
    ("locale", "first", "second"),
    [("ko-KR", "ko", "en"), ("en-GB", "en", "ko"), ("fr", "en", "ko")],
)
async def test_the_language_is_the_browsers_until_it_is_chosen(
    served: Gateway, model: ScriptedModel, visit: Visit, locale: str, first: str, second: str
) -> None:
    words = {"ko": ("새 대화", "다시 답변받기"), "en": ("New chat", "Ask again")}
    reader = await visit(served, locale=locale)
    await exchange(reader, model, "질문", "답")
    for language in (first, second):
        await expect(reader.page.locator("html")).to_have_attribute("lang", language)
        await expect(reader.page.locator("#new-chat")).to_have_text(words[language][0])
        again = reader.button("regenerate")
        await expect(again).to_have_attribute("aria-label", words[language][1])
        await reader.page.locator("#language").click()
    await reader.page.locator("#language").click()
    await reader.reload()
    await expect(reader.page.locator("html")).to_have_attribute("lang", second)


async def test_who_listens_hears_that_a_reply_began_and_then_all_of_it(
    served: Gateway, model: ScriptedModel, visit: Visit
) -> None:
    reader = await visit(served)
    heard = reader.page.locator("#announcer p")
    await reader.ask("tell me")
    call = await call_of(model)
    sentence = "This is a sentence of some length, as people write them. "
    for _ in range(12):
        await call.say(sentence)
    await reader.sees(sentence.strip())
    await expect(heard).to_have_text(["midm is answering."])  # no single pieces
    await expect(reader.last.locator("> .reply")).to_have_attribute("aria-busy", "true")
    await call.say("\n\n```python\na = 1\nb = 2\n```\n\n**The end.**")
    await call.complete()
    await reader.is_done()
    texts = await heard.all_text_contents()
    assert texts[:2] == ["midm is answering.", "midm has finished:"]
    assert texts[-2:] == ["Code, 2 lines.", "The end."]
    portions = texts[2:-2]
    assert " ".join(portions) == (sentence * 12).strip()
    assert len(portions) > 1
    assert max(map(len, portions)) <= 300
    assert await reader.last.locator("> .reply").get_attribute("aria-busy") == "false"


async def test_who_wants_no_motion_gets_none(served: Gateway, visit: Visit) -> None:
    reader = await visit(served, reduced_motion="reduce")
    assert await reader.page.evaluate(
        "getComputedStyle(document.querySelector('.spinner')).animationDuration"
    ) in ("1e-05s", "0.01ms")
