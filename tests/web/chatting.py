"""Clients in a page, worked from tests.

phone = await client(page, url)
await phone.call("send", "안녕")
await phone.next("complete")
assert (await phone.turns())[0]["reply"]["content"] == …
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.async_api import Page

from tests.gateway.harness import Gateway, Json
from tests.web.conftest import blank_of, run
from tests.whole.proxy import Cut, Tap

DRIVER = (Path(__file__).parent / "driver.js").read_text()
QUICK = {"backoffBaseMs": 20, "backoffCapMs": 80}
"""Waits as short as tests are."""


@dataclass(frozen=True)
class Client:
    """One client in a page, and what it shows."""

    page: Page
    name: str

    async def call(self, method: str, *given: Any) -> Any:
        """Call a method of it."""
        script = "([name, method, given]) => driver.call(name, method, ...given)"
        return await run(self.page, script, [self.name, method, list(given)])

    async def send(self, text: str, **options: Any) -> str:
        """Send a message; return its request id."""
        request_id: str = await self.call("send", text, options)
        return request_id

    async def next(self, kind: str, **fields: Any) -> Json:
        """Wait for an event with such fields that was not waited for before."""
        script = "([name, kind, fields]) => driver.next(name, kind, fields)"
        event: Json = await run(self.page, script, [self.name, kind, fields])
        return event

    async def look(self) -> Json:
        """What it says of itself, and the conversation that it makes."""
        seen: Json = await run(self.page, "(name) => driver.look(name)", self.name)
        return seen

    async def shown(self) -> list[tuple[str, str]]:
        """How each turn ended, and its text."""
        replies = [turn["reply"] for turn in (await self.look())["turns"]]
        return [(reply["finishReason"], reply["content"]) for reply in replies]


async def visit(page: Page, url: object) -> None:
    """Open an empty page of a gateway, with what tests work clients with."""
    await page.goto(blank_of(str(url)))
    await run(page, DRIVER, "/web/midm-chat.js")


async def client(page: Page, name: str = "phone", **options: Any) -> Client:
    """Open a client in a page that `visit` has opened."""
    timing = QUICK | options.pop("timing", {})
    script = "([name, options]) => driver.open(name, options)"
    await run(page, script, [name, {**options, "timing": timing}])
    return Client(page, name)


def asked(gateway: Gateway) -> list[str]:
    """The user messages that are stored, in order."""
    sql = "SELECT content FROM messages WHERE role = 'user' ORDER BY created_at, message_id"
    return [content for (content,) in gateway.rows(sql)]


@dataclass
class Line:
    """A line to a gateway that breaks, or falls silent, when a test says so.

    `breaks` looks at each piece of what the gateway says, and says whether that is the end of the
    connection; then the piece does not get through.
    """

    breaks: Callable[[bytes], bool] = lambda data: False
    is_silent: bool = False
    cuts: int = 0

    def __call__(self) -> tuple[Tap, Tap]:
        return self._up, self._down

    def _up(self, data: bytes) -> bytes:
        return b"" if self.is_silent else data

    def _down(self, data: bytes) -> bytes:
        if self.is_silent:
            return b""
        if self.breaks(data):
            self.cuts += 1
            raise Cut(b"")
        return data
