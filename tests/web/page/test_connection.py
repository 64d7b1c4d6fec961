"""The page when the gateway restarts, the network goes, keys are wanted, or others delete."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.async_api import expect

from gateway.auth.api_keys import new_key
from tests.faults.wires import Wire
from tests.gateway.harness import Gateway, call_of, on_sockets, settings_for
from tests.llm.scripted import ScriptedModel
from tests.web.page.conftest import Visit
from tests.web.page.test_chat import answer, exchange
from tests.whole.processes import gateway
from tests.whole.proxy import Cut, Tap, forwarding

AWAY = ("net::ERR_", "WebSocket connection")
KEY, KEYS_LINE = new_key("alice")


@dataclass
class NoSockets:
    """Wires over which pages come but, while `cut` is set, no WebSocket. For `forwarding`."""

    cut: bool = False

    def __call__(self) -> tuple[Tap, Tap]:
        is_socket = False

        def up(data: bytes) -> bytes:
            nonlocal is_socket
            is_socket = is_socket or data.startswith(b"GET /ws")
            return down(data)

        def down(data: bytes) -> bytes:
            if is_socket and self.cut:
                raise Cut(b"")
            return data

        return up, down


async def test_a_reply_goes_on_after_a_restart_of_the_gateway(
    model: ScriptedModel, visit: Visit, tmp_path: Path
) -> None:
    settings = {"LLM_SERVER_URL": model.url, "DRAIN_SECONDS": "0"}
    async with gateway(tmp_path, **settings) as program:
        reader = await visit(program.url, expected=AWAY)
        await reader.ask("count")
        call = await call_of(model)
        await call.say("one, ", "two")
        await reader.sees("one, two")
        await program.stop()
        await expect(reader.page.locator("#connection")).to_contain_text("Reconnecting in")
        await expect(reader.page.get_by_role("button", name="Try now")).to_be_visible()
        await reader.box.fill("typed meanwhile")
    port = program.url.rpartition(":")[2]
    async with gateway(tmp_path, PORT=port, **settings):
        # Not a click, which would wait for a button that is gone if the page was quicker.
        await reader.page.locator("#connection button").dispatch_event("click")
        # Nobody read the first call to its end: the turn is taken up, and asked anew.
        await answer(model, "one, two, three")
        await reader.sees("one, two, three")
        await reader.is_done()
        assert await reader.reply.inner_text() == "one, two, three"
        await expect(reader.page.locator("#connection")).to_have_attribute("data-state", "open")
        await expect(reader.box).to_have_value("typed meanwhile")
        await exchange(reader, model, "more", "four")
        await reader.page.close()


async def test_what_is_sent_without_a_network_is_sent_once_there_is_one(
    served: Gateway, model: ScriptedModel, visit: Visit
) -> None:
    wire = Wire()
    async with forwarding(str(served.http.base_url), wire) as url:
        reader = await visit(url, expected=AWAY)
        await exchange(reader, model, "one", "reply")
        wire.cut = True  # what is said next breaks the connection
        await reader.ask("two")
        await expect(reader.button("state")).to_contain_text("Will be sent as soon as")
        await reader.page.context.set_offline(True)
        await expect(reader.page.locator("#connection")).to_contain_text("Offline")
        await expect(reader.page.locator("#announcer")).to_contain_text("The connection is lost.")
        wire.cut = False
        await reader.page.context.set_offline(False)
        call = await answer(model, "reply to two")
        assert call.messages[-1]["content"] == "two"
        await reader.sees("reply to two")
        await expect(reader.turns).to_have_count(2)
        await expect(reader.page.locator("#announcer")).to_contain_text("Connected again.")
        await reader.page.close()


async def test_a_message_that_was_on_its_way_survives_a_reload_and_is_asked_once(
    served: Gateway, model: ScriptedModel, visit: Visit
) -> None:
    wires = NoSockets()
    async with forwarding(str(served.http.base_url), wires) as url:
        reader = await visit(url, expected=AWAY)
        await exchange(reader, model, "one", "reply")
        wires.cut = True
        await reader.ask("two")
        await expect(reader.button("state")).to_contain_text("Will be sent as soon as")
        await reader.reload()
        await expect(reader.page.locator(".turn.pending .said")).to_have_text("two")
        await expect(reader.turns).to_have_count(2)
        wires.cut = False
        await answer(model, "reply to two")
        await reader.sees("reply to two")
        await reader.is_done()
        await reader.reload()
        await reader.sees("reply to two")
        await expect(reader.turns).to_have_count(2)
        await reader.page.close()


async def test_what_is_sent_before_the_history_has_come_is_sent_after_it(
    served: Gateway, model: ScriptedModel, visit: Visit
) -> None:
    reader = await visit(served, expected=AWAY)
    await exchange(reader, model, "one", "reply")
    await reader.page.context.route("**/api/sessions/*/messages*", lambda route: route.abort())
    await reader.reload()  # the history does not come, so there is no connection yet
    await reader.ask("two")
    await expect(reader.page.locator(".turn.pending .said")).to_have_text("two")
    await reader.reload()
    await reader.page.context.unroute("**/api/sessions/*/messages*")
    await answer(model, "reply to two")
    await reader.sees("reply to two")
    await expect(reader.turns).to_have_count(2)


async def test_a_history_that_does_not_come_is_asked_for_again(
    served: Gateway, model: ScriptedModel, visit: Visit
) -> None:
    reader = await visit(served, expected=AWAY)
    await exchange(reader, model, "one", "reply")
    await reader.page.clock.install()
    # It is read, and never answered: as by a gateway that is stopped, not gone.
    await reader.page.route("**/messages?*", lambda route: None)
    async with reader.page.expect_request("**/messages?*"):
        await reader.reload()
    await reader.page.clock.run_for(15_000)
    await expect(reader.page.locator("#connection")).to_contain_text("Reconnecting in")
    await reader.page.unroute("**/messages?*")
    await reader.page.clock.run_for(1_000)
    await reader.sees("reply")


@pytest.mark.parametrize("leave", ["reload", "new chat"])
async def test_a_first_message_that_found_no_gateway_comes_back_into_the_box(
    served: Gateway, model: ScriptedModel, visit: Visit, leave: str
) -> None:
    reader = await visit(served, expected=AWAY)
    await reader.page.route("**/api/sessions", lambda route: route.abort())
    await reader.ask("a long and precious question")
    await expect(reader.page.locator(".turn.pending")).to_have_count(1)
    await reader.box.fill("and more")
    if leave == "reload":
        await reader.reload()
    else:
        await reader.page.keyboard.press("Control+k")
    await expect(reader.box).to_have_value("a long and precious question\n\nand more")
    await reader.page.unroute("**/api/sessions")
    await reader.reload()
    await expect(reader.box).to_have_value("a long and precious question\n\nand more")
    await reader.box.press("Enter")
    await answer(model, "reply")
    await reader.sees("reply")
    await expect(reader.turns).to_have_count(1)


async def test_a_conversation_that_was_deleted_elsewhere_is_explained(
    served: Gateway, model: ScriptedModel, visit: Visit
) -> None:
    reader = await visit(served, expected=("404",))
    await exchange(reader, model, "one", "reply")
    session_id = (await reader.page.evaluate("location.hash")).removeprefix("#/")
    await served.http.delete(f"/api/sessions/{session_id}")
    await expect(reader.page.locator("#gone")).to_contain_text("no longer there")
    for name in ("composer", "search-open", "export"):
        await expect(reader.page.locator(f"#{name}")).to_be_hidden()
    await reader.page.keyboard.press("Control+Shift+f")
    await expect(reader.page.locator("#finder")).to_be_hidden()
    await reader.reload()  # nor can it be loaded
    await expect(reader.page.locator("#gone")).to_contain_text("no longer there")
    await reader.page.get_by_role("button", name="Take it off the list").click()
    await expect(reader.page.locator("#welcome")).to_be_visible()
    await expect(reader.page.locator("#sessions li")).to_have_count(0)
    await exchange(reader, model, "again", "fine")


@pytest.mark.parametrize("remembered", [False, True])
async def test_a_key_is_asked_for_and_kept_as_long_as_wanted(
    model: ScriptedModel, visit: Visit, tmp_path: Path, remembered: bool
) -> None:
    settings = settings_for(tmp_path / "chat.db", model.url, api_keys=(KEYS_LINE.line,))
    async with on_sockets(settings) as locked:
        reader = await visit(locked, expected=("401",))
        dialog = reader.page.locator("#key-dialog")
        await reader.ask("안녕")
        await expect(dialog).to_contain_text("This gateway wants an API key.")
        await dialog.get_by_label("API key").fill("midm_wrong")
        await reader.page.keyboard.press("Enter")
        await expect(dialog).to_be_hidden()
        await expect(reader.box).to_have_value("안녕")
        await reader.box.press("Enter")
        await expect(dialog).to_contain_text("does not accept this key")
        await dialog.get_by_label("API key").fill(KEY)
        if remembered:
            await dialog.get_by_label("Remember it in this browser").check()
        await dialog.get_by_role("button", name="Use this key").click()
        await reader.box.press("Enter")
        await answer(model, "반갑습니다")
        await reader.sees("반갑습니다")
        await reader.is_done()
        await reader.reload()
        await reader.sees("반갑습니다")
        # A browser that is new to the list gets it from the gateway.
        await reader.page.evaluate("localStorage.removeItem('midm.sessions')")
        other = await reader.second_tab()
        if remembered:
            await other.sees("반갑습니다")
            await expect(other.page.locator("#sessions li")).to_have_count(1)
        else:
            await expect(other.page.locator("#key-dialog")).to_be_visible()
            await other.page.keyboard.press("Escape")
            await expect(other.page.locator("#connection")).to_contain_text("Disconnected")
            await other.page.get_by_role("button", name="Reconnect").click()
            await expect(other.page.locator("#key-dialog")).to_be_visible()
        assert KEY not in await reader.page.content()
        for tab in (reader, other):
            await tab.page.close()


async def test_who_waits_in_line_is_told_the_place(
    served: Gateway, model: ScriptedModel, visit: Visit
) -> None:
    first, second = await visit(served), await visit(served)
    await first.ask("one")
    call = await call_of(model)
    await second.ask("two")
    await expect(second.button("state")).to_contain_text("number 1 in line")
    await expect(second.page.locator("#stop")).to_be_visible()
    await expect(second.page.locator("#announcer p").last).to_have_text("Waiting for the model.")
    await call.complete()
    await (await call_of(model)).complete()
    await second.is_done()
    await expect(second.button("state")).to_have_text("The reply is empty.")


async def test_a_simulated_model_is_named_as_such(simulated: Gateway, visit: Visit) -> None:
    reader = await visit(simulated)
    banner = reader.page.locator("#banner")
    await expect(banner).to_contain_text("A simulated model is answering.")
    await reader.ask("hello #sim pieces=3 interval_ms=0 first_token_ms=0#")
    await reader.sees("[simulated]")
    await banner.get_by_role("button").click()
    await expect(banner).to_be_hidden()
    await reader.reload()
    await reader.sees("[simulated]")
    await expect(banner).to_be_hidden()
