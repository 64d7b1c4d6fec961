"""Whatever goes wrong is said in the reader's language, with what to do next."""

from pathlib import Path
from typing import get_args

import pytest
from playwright.async_api import Route, expect

from protocol.errors import CloseCode, ErrorCode
from protocol.server_frames import FinishReason
from tests.gateway.harness import Gateway, call_of, on_sockets, settings_for
from tests.llm.scripted import ScriptedModel
from tests.web.page.conftest import Visit
from tests.web.page.test_chat import answer, exchange

TABLES = """async (_, load) => ({
  en: (await load("strings-en")).default,
  ko: (await load("strings-ko")).default,
})"""


async def test_every_error_has_a_sentence_in_both_languages(served: Gateway, visit: Visit) -> None:
    reader = await visit(served)
    tables: dict[str, dict[str, str]] = await reader.module(TABLES)
    assert list(tables["en"]) == list(tables["ko"])
    for table in tables.values():
        for code in ErrorCode:
            assert len(table[f"error.{code}"]) > 10
            assert len(table[f"next.{code}"]) > 5
        assert {f"reason.{reason}" for reason in get_args(FinishReason)} <= table.keys()
        for close in CloseCode:
            assert close < 4500 or len(table[f"close.{close.value}"]) > 10
    # Nothing was left untranslated, and both fill in the same values.
    for key, english in tables["en"].items():
        korean = tables["ko"][key]
        same = {"whichVersion", "otherLanguageShort", "otherLanguage", "key.help"}
        assert key in same or any("가" <= letter <= "힣" for letter in korean), key
        assert sorted(_values(english)) == sorted(_values(korean)), key


def _values(text: str) -> list[str]:
    return [part.split("}")[0] for part in text.split("{")[1:]]


@pytest.mark.parametrize(
    ("faults", "what"),
    [
        ("error_at=2", "The model could not answer this."),
        ("cut_at=2", "The model server cannot be reached, or broke off."),
    ],
)
async def test_a_reply_that_breaks_off_is_kept_and_can_be_had_again(
    simulated: Gateway, visit: Visit, faults: str, what: str
) -> None:
    reader = await visit(simulated)
    await reader.ask(f"hello #sim {faults} interval_ms=0 first_token_ms=0#")
    trouble = reader.button("trouble")
    await expect(trouble).to_contain_text(what)
    await reader.sees("[simulated]")
    await reader.is_done()
    await trouble.get_by_role("button", name="Try again").click()
    await expect(reader.button("which")).to_have_text("2/2")
    await expect(trouble).to_contain_text(what)
    await expect(reader.turns).to_have_count(1)


async def test_a_reply_that_reached_its_length_says_so(simulated: Gateway, visit: Visit) -> None:
    made = await simulated.http.post("/api/sessions", json={})
    session_id = made.json()["session_id"]
    asked = {"session_id": session_id, "message": "hello", "max_new_tokens": 2}
    await simulated.http.post("/api/chat", json=asked)
    reader = await visit(simulated)
    await reader.page.goto(f"{reader.url}#/{session_id}")
    await expect(reader.button("trouble")).to_contain_text("reached its length limit")
    await expect(reader.page.locator("#title")).to_have_text("hello")


async def test_a_message_that_the_model_cannot_take_comes_back_into_the_box(
    model: ScriptedModel, visit: Visit, tmp_path: Path
) -> None:
    settings = settings_for(tmp_path / "chat.db", model.url, max_context_chars=100)
    async with on_sockets(settings) as narrow:
        reader = await visit(narrow)
        await exchange(reader, model, "short", "reply")
        long = "a long message " * 20
        await reader.ask(long)
        await expect(reader.notice).to_contain_text("too long for the model")
        await expect(reader.box).to_have_value(long)
        await expect(reader.turns).to_have_count(1)
        await expect(reader.box).to_be_focused()
        await exchange(reader, model, "short again", "fine")
        await expect(reader.notice).to_be_hidden()
        await reader.page.close()


async def test_who_sends_too_fast_is_told_and_the_message_is_sent_all_the_same(
    model: ScriptedModel, visit: Visit, tmp_path: Path
) -> None:
    settings = settings_for(
        tmp_path / "chat.db", model.url, api_keys=(), messages_per_minute=60, llm_max_waiting=0
    )
    async with on_sockets(settings) as busy:
        first, second = await visit(busy), await visit(busy)
        await exchange(second, model, "zero", "reply")
        await first.ask("one")
        call = await call_of(model)
        await second.ask("two")
        await expect(second.button("state")).to_contain_text("Too many people are waiting")
        await call.complete()
        await answer(model, "reply to two")
        await second.sees("reply to two")
        await second.is_done()
        for tab in (first, second):
            await tab.page.close()


async def test_a_model_that_is_away_is_named_until_it_is_back(
    served: Gateway, model: ScriptedModel, visit: Visit
) -> None:
    reader = await visit(served)
    away = True

    async def health(route: Route) -> None:
        said = await (await route.fetch()).json()
        await route.fulfill(json={**said, "llm_server_available": not away})

    await reader.page.route("**/api/health", health)
    banner = reader.page.locator("#banner")
    await reader.ask("question")
    call = await call_of(model)
    await call.error("broken")
    await expect(banner).to_contain_text("model server")
    await reader.is_done()
    away = False
    await exchange(reader, model, "again", "reply")
    await expect(banner).to_be_hidden()


DAMAGED = {
    "language": "constructor",
    "theme": "{",
    "sessions": '[null, 1, {"id": "x"}, {"id": "y", "title": {}, "at": "z"}]',
    "outbox.SESSION": '[null, 5, {"requestId": 1}, {"requestId": "r", "message": {}}]',
}


async def test_a_damaged_memory_is_forgotten(
    served: Gateway, model: ScriptedModel, visit: Visit
) -> None:
    reader = await visit(served)
    session_id = await served.new_session()
    await reader.page.evaluate(
        """([damaged, id]) => Object.entries(damaged).forEach(([name, value]) => {
          for (const place of [localStorage, sessionStorage])
            place.setItem(`midm.${name.replace("SESSION", id)}`, value);
        })""",
        [DAMAGED, session_id],
    )
    await reader.reload()
    await reader.arrive(f"#/{session_id}")
    await exchange(reader, model, "question", "reply")
    await expect(reader.page.locator("#sessions li")).to_have_count(1)


@pytest.mark.parametrize(
    "broken",
    [
        "Storage.prototype.setItem = () => { throw new DOMException('', 'QuotaExceededError'); }",
        "for (const place of ['localStorage', 'sessionStorage'])"
        " Object.defineProperty(window, place, { get() { throw new DOMException('no'); } })",
    ],
    ids=["full", "forbidden"],
)
async def test_without_storage_the_page_remembers_until_it_is_left(
    served: Gateway, model: ScriptedModel, visit: Visit, broken: str
) -> None:
    reader = await visit(served)
    await reader.page.add_init_script(broken)
    await reader.reload()
    await exchange(reader, model, "question", "reply")
    await expect(reader.page.locator("#sessions li")).to_have_text(["question"])
    await reader.box.fill("a draft")
    await reader.page.keyboard.press("Control+k")
    await expect(reader.box).to_have_value("")
    await reader.page.locator("#sessions a").click()
    await expect(reader.box).to_have_value("a draft")
