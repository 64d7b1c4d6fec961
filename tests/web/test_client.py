"""The browser client, in Chromium."""

from playwright.async_api import Page

from tests.gateway.harness import Gateway
from tests.web.conftest import blank_of, run


async def test_a_page_of_the_gateway_may_open_a_socket_to_it(page: Page, served: Gateway) -> None:
    await page.goto(blank_of(served.http.base_url))
    script = """() => new Promise((resolve) => {
        const socket = new WebSocket(location.origin.replace("http", "ws") + "/ws");
        socket.onmessage = ({ data }) => resolve(JSON.parse(data).type);
    })"""
    assert await run(page, script) == "ready"
