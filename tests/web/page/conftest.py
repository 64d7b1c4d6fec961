"""Readers of the chat page: each a browser context of its own, watched all the time.

    async def test_…(served: Gateway, visit: Visit, model: ScriptedModel) -> None:
        reader = await visit(served)
        await reader.ask("안녕")

The gateway stands first, so that it outlives its readers. Whatever a reader does, nothing is asked
of another host, nothing is thrown, and nothing is written to the console as an error or a warning,
but what a test says it expects.
"""

from collections.abc import AsyncIterator, Awaitable
from typing import Any, Protocol

import pytest
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Request

from tests.gateway.harness import WITHIN_S, Gateway
from tests.web.page.reader import Reader


class Visit(Protocol):
    """Opens the chat page of a gateway, or of an address; options are those of the context."""

    def __call__(
        self, gateway: Gateway | str, *, expected: tuple[str, ...] = (), **options: Any
    ) -> Awaitable[Reader]: ...


@pytest.fixture
async def visit(browser: Browser) -> AsyncIterator[Visit]:
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    async def arrive(
        gateway: Gateway | str, *, expected: tuple[str, ...] = (), **options: Any
    ) -> Reader:
        url = gateway if isinstance(gateway, str) else str(gateway.http.base_url)
        context = await browser.new_context(**{"locale": "en-US", **options})
        contexts.append(context)
        context.set_default_timeout(WITHIN_S * 1000)
        _watch(context, complaints, origin=url.rstrip("/"), expected=expected)
        await context.add_init_script(f"addEventListener('{_VIOLATION}', {_KEEP_VIOLATION})")
        reader = Reader(await context.new_page(), url)
        await reader.arrive()
        return reader

    yield arrive
    for context in contexts:
        for page in context.pages:
            kept = await page.evaluate("globalThis.violations ?? []")
            complaints += [f"the policy stopped {one}" for one in kept]
        await context.close()
    assert complaints == []


_VIOLATION = "securitypolicyviolation"
_KEEP_VIOLATION = (
    "(e) => (globalThis.violations ??= []).push(`${e.violatedDirective} ${e.blockedURI}`)"
)


def _watch(
    context: BrowserContext, complaints: list[str], *, origin: str, expected: tuple[str, ...]
) -> None:
    def console(line: ConsoleMessage) -> None:
        is_foreseen = any(part in line.text for part in expected)
        if line.type in ("error", "warning") and not is_foreseen:
            complaints.append(f"{line.type}: {line.text}")

    def request(asked: Request) -> None:
        if not asked.url.startswith((origin, origin.replace("http", "ws", 1), "data:", "blob:")):
            complaints.append(f"asked another host: {asked.url}")

    context.on("console", console)
    context.on("request", request)
    context.on("weberror", lambda thrown: complaints.append(f"thrown: {thrown.error}"))
    context.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
