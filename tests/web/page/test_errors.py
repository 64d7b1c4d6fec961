"""Whatever goes wrong is said in the reader's language, with what to do next."""

from pathlib import Path

import pytest
from playwright.async_api import expect

from protocol.errors import CloseCode, ErrorCode
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
