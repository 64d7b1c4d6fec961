"""Somebody who reads and types on the chat page."""

from dataclasses import dataclass
from typing import Any

from playwright.async_api import Locator, Page, expect

from tests.gateway.harness import WITHIN_S

expect.set_options(timeout=WITHIN_S * 1000)


@dataclass(frozen=True)
class Reader:
    """A tab with the page; what is looked for is what a reader sees."""

    page: Page
    url: str

    async def arrive(self, fragment: str = "") -> None:
        """Open the page, and wait until it can be used."""
        await self.page.goto(self.url + fragment)
        await expect(self.page.locator("#ideas li")).to_have_count(4)

    async def second_tab(self) -> "Reader":
        """Open what is in view in another tab of the same browser."""
        other = Reader(await self.page.context.new_page(), self.url)
        await other.arrive(await self.page.evaluate("location.hash"))
        return other

    async def ask(self, text: str) -> None:
        """Type a message and send it by Enter."""
        await self.box.fill(text)
        await self.box.press("Enter")

    async def sees(self, *texts: str) -> None:
        """Wait until the last reply has all these."""
        for text in texts:
            await expect(self.reply).to_contain_text(text)

    async def is_done(self) -> None:
        """Wait until no reply is being written."""
        await expect(self.page.locator("#stop")).to_be_hidden()
        await expect(self.page.locator(".turn.pending")).to_have_count(0)
        await expect(self.page.locator(".prose.writing")).to_have_count(0)

    async def reload(self) -> None:
        """Load the page anew."""
        await self.page.reload()
        await expect(self.page.locator("#ideas li")).to_have_count(4)

    async def until(self, condition: str) -> None:
        """Wait until an expression holds; unlike Playwright's own way, under the page's policy."""
        script = f"""(ms) => new Promise((resolve, reject) => {{
          const end = performance.now() + ms;
          const look = () => {{
            if ({condition}) resolve();
            else if (performance.now() > end) reject(new Error("it never held"));
            else setTimeout(look, 10);
          }};
          look();
        }})"""
        await self.page.evaluate(script, WITHIN_S * 1000)

    async def module(self, script: str, argument: Any = None) -> Any:
        """Run `async (argument, load) => …`; `load("prose")` is a module of the page."""
        load = "(name) => import(`./web/page/${name}.js`)"
        return await self.page.evaluate(f"(argument) => ({script})(argument, {load})", argument)

    @property
    def box(self) -> Locator:
        return self.page.locator("#box")

    @property
    def turns(self) -> Locator:
        return self.page.locator("#turns > .turn")

    @property
    def last(self) -> Locator:
        return self.turns.last

    @property
    def question(self) -> Locator:
        return self.last.locator("> .ask .said")

    @property
    def reply(self) -> Locator:
        return self.last.locator("> .reply .prose")

    @property
    def notice(self) -> Locator:
        return self.page.locator("#notice")

    def button(self, name: str) -> Locator:
        """Find a button of the last turn by its class; it shows itself to who points at it."""
        return self.last.locator(f".{name}")
