"""What browsers are shown, and what programs get at the same address."""

import pytest

from gateway.pages import WEB
from tests.gateway.harness import Gateway

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


async def test_a_browser_is_shown_the_chat_page(gateway: Gateway) -> None:
    shown = await gateway.http.get("/", headers={"Accept": BROWSER})
    assert shown.headers["content-type"] == "text/html; charset=utf-8"
    assert shown.content == (WEB / "index.html").read_bytes()


@pytest.mark.parametrize("accept", ["*/*", "application/json", ""])
async def test_a_program_is_told_where_things_are(gateway: Gateway, accept: str) -> None:
    told = await gateway.http.get("/", headers={"Accept": accept})
    assert told.json()["service"] == "midm-chat-gateway"


@pytest.mark.parametrize("accept", [BROWSER, "*/*"])
async def test_no_cache_takes_the_one_for_the_other(gateway: Gateway, accept: str) -> None:
    reply = await gateway.http.get("/", headers={"Accept": accept})
    assert "Accept" in reply.headers["vary"]


async def test_a_page_may_use_this_gateway_and_nothing_else(gateway: Gateway) -> None:
    shown = await gateway.http.get("/", headers={"Accept": BROWSER})
    policy = dict(
        directive.strip().split(" ", 1)
        for directive in shown.headers["content-security-policy"].split(";")
    )
    assert policy.pop("default-src") == policy.pop("base-uri") == "'none'"
    assert policy.pop("form-action") == policy.pop("frame-ancestors") == "'none'"
    assert policy.pop("img-src") == "'self' data:"
    assert policy.pop("require-trusted-types-for") == "'script'"
    assert policy.pop("trusted-types") == "dompurify"
    assert set(policy.values()) == {"'self'"}


async def test_what_a_page_is_made_of_is_served_and_known_again(gateway: Gateway) -> None:
    given = await gateway.http.get("/web/index.html")
    assert given.content == (WEB / "index.html").read_bytes()
    assert given.headers["cache-control"] == "no-cache"
    again = await gateway.http.get(
        "/web/index.html", headers={"If-None-Match": given.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path",
    ["none.js", "", "..%2fapp.py", "%2e%2e/app.py", "../../etc/passwd", "%00", "a%2f..%2f.."],
)
async def test_nothing_else_is_served(gateway: Gateway, path: str) -> None:
    refused = await gateway.http.get(f"/web/{path}")
    assert refused.status_code == 404
    assert refused.json()["code"] == "not_found"
