"""The browser client, in Chromium."""

from playwright.async_api import Page

from tests.gateway.harness import Gateway
from tests.web.conftest import blank_of, run


async def test_a_message_is_answered(page: Page, simulated: Gateway) -> None:
    await page.goto(blank_of(simulated.http.base_url))
    script = """async () => {
        const { ChatClient, Conversation } = await import("/web/midm-chat.js");
        const chat = new ChatClient();
        const conversation = new Conversation();
        const seen = [];
        for (const type of ["state", "ready", "accepted", "start", "token", "complete", "sent"]) {
            chat.addEventListener(type, ({ detail }) => seen.push(type) && conversation.apply(detail));
        }
        chat.connect();
        chat.send("hello #sim pieces=5 interval_ms=1 first_token_ms=1#");
        await new Promise((resolve) => chat.addEventListener("complete", resolve));
        chat.close();
        return { seen, reply: conversation.turns[0].reply.content, outbox: chat.outbox };
    }"""
    heard = await run(page, script)
    assert heard["reply"] == simulated.replies()[0][1]
    assert heard["outbox"] == []
    assert heard["seen"][:6] == ["state", "sent", "state", "ready", "accepted", "start"]
    assert heard["seen"][-2:] == ["complete", "state"]
