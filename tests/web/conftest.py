"""A real Chromium, and gateways for it to talk to.

    async def test_…(page: Page, served: Gateway, model: ScriptedModel) -> None:
        await page.goto(str(served.http.base_url))       # the chat page, or
        await page.goto(blank_of(served.http.base_url))  # an empty one, under the same rules
        assert await run(page, "async () => …") == …

A page that throws, or that its `Content-Security-Policy` stops from anything, fails its test.
"""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from playwright.async_api import Browser, BrowserContext, Page, Route, async_playwright

from gateway.pages import PAGE_HEADERS
from tests.gateway.conftest import _no_settings_from_outside, model, served
from tests.gateway.harness import WITHIN_S, Gateway, on_sockets, settings_for

__all__ = ["_no_settings_from_outside", "model", "served"]

FLAGS = (
    "--no-sandbox",  # of no use to root
    "--no-proxy-server",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
BLANK = "/blank"


def executable() -> str | None:
    """Find a Chromium of the system."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


def blank_of(url: httpx.URL | str) -> str:
    """Say where an empty page of a gateway is: one that scripts of tests have to themselves."""
    return f"{str(url).rstrip('/')}{BLANK}"


async def run(page: Page, script: str, argument: Any = None) -> Any:
    """Evaluate a script in a page; a promise that is never kept fails the test in time."""
    with anyio.fail_after(WITHIN_S):
        return await page.evaluate(script, argument)


@pytest.fixture(scope="package")
def anyio_backend() -> str:
    """One loop for all tests of this folder, as the browser lives in it."""
    return "asyncio"


@pytest.fixture(scope="package")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    """Chromium, started once; it keeps nothing."""
    path = executable()
    if path is None:
        pytest.skip("there is no Chromium")
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield launched
        await launched.close()


@pytest.fixture
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    """A visitor without a past: no storage, no cookies. Tabs of theirs are its pages."""
    complaints: list[str] = []
    # A page that is made up, such as the empty one, is of no network: it would have to ask before
    # it opens a WebSocket to this machine.
    visitor = await browser.new_context(permissions=["local-network-access"])
    visitor.set_default_timeout(WITHIN_S * 1000)
    visitor.on("weberror", lambda thrown: complaints.append(str(thrown.error)))
    visitor.on("console", lambda line: complaints.extend(_forbidden(line.text)))
    await visitor.route(f"**{BLANK}", _show_nothing)
    yield visitor
    await visitor.close()
    assert complaints == []


@pytest.fixture
async def page(context: BrowserContext) -> Page:
    """A tab in which nothing has been opened yet."""
    return await context.new_page()


@pytest.fixture
async def simulated(tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway on a port of 127.0.0.1 whose model is the simulated one."""
    async with on_sockets(settings_for(tmp_path / "chat.db", "")) as gateway:
        yield gateway


async def _show_nothing(route: Route) -> None:
    page = "<!doctype html><title>blank</title>"
    await route.fulfill(body=page, content_type="text/html", headers=PAGE_HEADERS)


def _forbidden(line: str) -> list[str]:
    return [line] if "Content Security Policy" in line else []
