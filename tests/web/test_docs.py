"""The page for programs, in a real browser: it shows the whole contract, and all can be tried."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Page, expect

from protocol.client_frames import HELP
from protocol.errors import CATALOGUE, CloseCode
from protocol.openapi import OPERATIONS
from protocol.schema import CLIENT_FRAMES
from protocol.server_frames import SERVER_FRAMES
from tests.gateway.access.people import ALICE, access_settings
from tests.gateway.harness import Gateway, on_sockets

Json = dict[str, Any]

SLOW = "안녕 #sim pieces=40 interval_ms=60000 first_token_ms=0#"
QUICK = "안녕하세요 #sim pieces=12 interval_ms=1 first_token_ms=0#"


@pytest.fixture
async def docs(context: BrowserContext, simulated: Gateway) -> AsyncIterator[Page]:
    """The page, all of it there; it asks nobody else, and the browser complains of nothing."""
    async with shown(context, simulated) as page:
        yield page


@asynccontextmanager
async def shown(context: BrowserContext, gateway: Gateway) -> AsyncIterator[Page]:
    origin = str(gateway.http.base_url).rstrip("/")
    complaints: list[str] = []
    page = await context.new_page()
    page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
    page.on("request", lambda asked: complaints.extend(elsewhere(asked.url, origin)))
    page.on("websocket", lambda opened: complaints.extend(elsewhere(opened.url, origin)))
    await page.goto(f"{origin}/docs")
    await page.wait_for_selector("html[data-begun]")
    await page.wait_for_selector("#swagger .opblock")
    yield page
    assert complaints == []


def elsewhere(url: str, origin: str) -> list[str]:
    here = (f"{origin}/", f"{origin.replace('http', 'ws', 1)}/", "data:", "blob:")
    return [] if url.startswith(here) else [url]


async def frames(page: Page, way: str) -> list[Json]:
    """Say what went in or out, by the log of the page."""
    lines = await page.eval_on_selector_all(
        f"#log .{way}", "lines => lines.map((line) => line.dataset.text)"
    )
    return [json.loads(line) for line in lines if line.startswith("{")]


async def connect(page: Page) -> None:
    await page.click("#open")
    await page.wait_for_selector("#log [data-type=ready]")


async def send(page: Page, text: str) -> None:
    await page.fill("#frame", text)
    await page.click("#send")


async def test_every_call_every_frame_and_every_code_is_shown(docs: Page) -> None:
    calls = await docs.eval_on_selector_all(
        "#swagger .opblock",
        "all => all.map((one) => one.querySelector('.opblock-summary-method').textContent"
        " + ' ' + one.querySelector('.opblock-summary-path').dataset.path)",
    )
    assert sorted(calls) == sorted(f"{each.method.upper()} {each.path}" for each in OPERATIONS)
    for group, models in (("client", CLIENT_FRAMES), ("server", SERVER_FRAMES)):
        named = await docs.eval_on_selector_all(
            f"#{group}-frames > .frame", "all => all.map((one) => one.id)"
        )
        assert named == [f"frame-{model.__name__}" for model in models]
    codes = [
        await docs.locator(f"#{kind}-codes tbody th").all_inner_texts()
        for kind in ("error", "close")
    ]
    assert codes[0] == [code.value for code in CATALOGUE]
    assert codes[1] == [str(int(code)) for code in CloseCode]


async def test_a_frame_is_shown_with_its_fields_and_can_be_tried(docs: Page) -> None:
    await docs.click("#frame-Cancel summary")
    fields = docs.locator("#frame-Cancel th code")
    assert set(await fields.all_inner_texts()) == {"type", "turn", "request_id"}
    await docs.click("#frame-Cancel figure button")
    assert json.loads(await docs.input_value("#frame")) == {"type": "cancel", "turn": 1}


async def test_a_call_can_be_tried(docs: Page, simulated: Gateway) -> None:
    call = docs.locator("#swagger .opblock-post", has_text="Begin a session.")
    await call.locator(".opblock-summary").click()
    await call.locator(".execute").click()
    await expect(call.locator(".live-responses-table .response-col_status").last).to_contain_text(
        "201"
    )
    [(metadata,)] = simulated.rows("SELECT metadata FROM sessions")
    assert json.loads(metadata) == {"title": "A first talk"}


async def test_the_console_connects_chats_and_shows_tokens(docs: Page, simulated: Gateway) -> None:
    await connect(docs)
    await send(docs, QUICK)
    await docs.wait_for_selector("#log [data-type=complete]")
    said = await frames(docs, "in")
    text = "".join(frame["content"] for frame in said if frame["type"] == "token")
    assert simulated.replies() == [("stop", text)]
    assert await docs.text_content("#reply") == text
    assert await docs.text_content("#cursor") == "1.1.end"
    assert await docs.input_value("#session") == said[0]["session_id"]


async def test_the_console_resumes_in_the_middle_of_a_reply(docs: Page) -> None:
    await connect(docs)
    await send(docs, SLOW)
    await docs.wait_for_selector("#log [data-type=token]")
    cursor = await docs.text_content("#cursor")
    await docs.click("#disconnect")
    await expect(docs.locator("#state")).to_have_attribute("data-state", "idle")
    await docs.click("#clear")
    await docs.click("#resume")
    await docs.wait_for_selector("#log [data-type=ready]")
    [ready] = await frames(docs, "in")
    assert (ready["resumed"], ready["cursor"]) == (True, cursor)
    await send(docs, "/cancel")
    await docs.wait_for_selector("#log [data-type=complete]")
    assert [frame["type"] for frame in await frames(docs, "in")] == ["ready", "complete"]


async def test_every_template_is_valid_and_can_be_sent(docs: Page) -> None:
    await connect(docs)
    templates = await docs.locator("#template option").all_inner_texts()
    assert {label.partition(":")[0] for label in templates} == {
        "typed",
        *(model.model_fields["type"].default for model in CLIENT_FRAMES),
    }
    for n, _ in enumerate(templates):
        await docs.select_option("#template", index=n)
        assert await docs.locator("#verdict .wrong").all_inner_texts() == []
    await docs.select_option("#template", label="help: what can be typed")
    await docs.click("#send")
    await docs.wait_for_selector("#log [data-type=help]")
    assert (await frames(docs, "in"))[-1]["text"] == HELP


WRONG = {
    '{"type": "chat"}': "message: is missing",
    '{"type": "shout"}': "type: should be one of chat, regenerate",
    '{"type": "chat", "message": "  "}': "message: should hold more than white space",
    '{"type": "chat", "message": "a", "temperature": 3}': "temperature: should be at most 2",
    '{"type": "cancel", "turn": "1"}': "turn: should be of type integer",
    '{"type": "ping", "id": 1}': "id: is not known",
    '{"type": ': "JSON",
}


async def test_what_is_wrong_is_said_before_it_is_sent(docs: Page) -> None:
    for frame, says in WRONG.items():  # on one page, for that is what takes long to load
        await docs.fill("#frame", frame)
        await expect(docs.locator("#verdict .wrong")).to_contain_text(says)
        await expect(docs.locator("#send")).to_have_text("Send anyway")


async def test_the_log_can_be_copied_and_cleared(context: BrowserContext, docs: Page) -> None:
    await context.grant_permissions(["clipboard-read", "clipboard-write"])
    await connect(docs)
    await docs.fill("#frame", '{\n "type": "ping",\n "request_id": "p1"\n}')
    await docs.press("#frame", "Control+Enter")
    await docs.wait_for_selector("#log [data-type=pong]")
    await docs.click("#copy-log")
    await expect(docs.locator("#copy-log")).to_have_text("Copied")
    ready, ping, pong = (await docs.evaluate("navigator.clipboard.readText()")).splitlines()
    assert " < " in ready
    assert ping.endswith(' > {"type":"ping","request_id":"p1"}')
    assert pong.endswith(' < {"type":"pong","request_id":"p1"}')
    await docs.click("#clear")
    assert await docs.locator("#log li").count() == 0


async def test_a_closed_socket_says_what_its_code_means(docs: Page) -> None:
    await docs.fill("#session", "nobody")
    await docs.click("#open")
    note = docs.locator("#log .note")
    await expect(note).to_contain_text("4504 There is no such session, or it was deleted.")
    await expect(docs.locator("#resume")).to_be_disabled()


async def test_it_speaks_korean_and_goes_dark_for_who_does(
    context: BrowserContext, docs: Page
) -> None:
    assert await docs.text_content("h1") == "The contract, to read and to try"
    await docs.click("#language")
    assert await docs.text_content("h1") == "읽고 바로 써 보는 계약"
    assert await docs.get_attribute("html", "lang") == "ko"
    await docs.emulate_media(color_scheme="dark")
    await expect(docs.locator("html")).to_have_attribute("data-theme", "dark")
    await docs.click("#theme")
    await docs.reload()
    await expect(docs.locator("html")).to_have_attribute("data-theme", "light")
    await expect(docs.locator("[data-word=title]")).to_have_text("읽고 바로 써 보는 계약")
    await docs.goto(docs.url.removesuffix("docs"))  # the chat page has been told, too
    await expect(docs.locator("#new-chat")).to_have_text("새 대화")
    await expect(docs.locator("html")).to_have_attribute("data-theme", "light")


async def test_it_fits_a_phone(docs: Page) -> None:
    await docs.set_viewport_size({"width": 360, "height": 740})
    await docs.evaluate(
        "document.querySelectorAll('details').forEach((each) => { each.open = true })"
    )
    assert await docs.evaluate("document.documentElement.scrollWidth") <= 360


async def test_a_key_goes_ahead_and_is_not_shown(context: BrowserContext, tmp_path: Any) -> None:
    async with (
        on_sockets(access_settings(tmp_path)) as guarded,
        shown(context, guarded) as page,
    ):
        await page.fill("#key", ALICE)
        await connect(page)
        assert await frames(page, "out") == [{"type": "auth", "token": "…"}]
        assert ALICE not in await page.inner_html("#log")
