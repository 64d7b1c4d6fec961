"""The client where the gateway asks who it is."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Page

from gateway.auth.authenticator import Authenticator, Lapse
from gateway.auth.principal import Principal
from tests.gateway.access.people import ALICE, CAROL, access_settings, token
from tests.gateway.harness import Gateway, Json, call_of, on_sockets
from tests.llm.scripted import ScriptedModel
from tests.web.chatting import asked, client, visit


@pytest.fixture
async def guarded(tmp_path: Path, model: ScriptedModel) -> AsyncIterator[Gateway]:
    """A gateway that knows Alice, and lets her send one message in 15 s."""
    settings = access_settings(tmp_path, model.url, messages_per_minute=4, auth_timeout_s=0.5)
    async with on_sockets(settings) as gateway:
        yield gateway


async def test_a_key_opens_the_session_and_the_socket(
    page: Page, guarded: Gateway, model: ScriptedModel
) -> None:
    await visit(page, guarded.http.base_url)
    phone = await client(page, token=ALICE)
    await phone.send("안녕")
    await (await call_of(model)).complete()
    await phone.next("complete")
    assert guarded.rows("SELECT owner FROM owners") == [("key:alice",)]


async def test_whoever_may_not_come_in_is_told_and_stays_out(page: Page, guarded: Gateway) -> None:
    await visit(page, guarded.http.base_url)
    visits: dict[str, Json] = {
        "nobody": {},
        "unknown": {"token": CAROL},
        "without a session": {"token": CAROL, "sessionId": None},
        "unknown, twice": {"tokens": [CAROL, CAROL]},
    }
    for name, options in visits.items():
        phone = await client(page, name, **{"sessionId": "s", "cursor": "0.0.end", **options})
        closed = await phone.next("state", state="closed")
        assert closed["closedBy"]["code"] == 4500
        assert closed["closedBy"]["reason"]
    assert (await phone.look())["asked"] == 2


async def test_a_refused_token_is_replaced_by_a_new_one(page: Page, guarded: Gateway) -> None:
    await visit(page, guarded.http.base_url)
    phone = await client(page, tokens=[CAROL, ALICE])
    await phone.next("ready")
    session_id = (await phone.look())["sessionId"]
    again = await client(
        page, "again", tokens=[CAROL, ALICE], sessionId=session_id, cursor="0.0.end"
    )
    await again.next("ready")
    assert (await again.look())["asked"] == 2


def expiring(monkeypatch: pytest.MonkeyPatch, *, until: float) -> None:
    """Let tokens that expire until then have expired."""

    def lapse(self: Authenticator, principal: Principal) -> Lapse | None:
        return "expired" if (principal.expires_at or 0) <= until else None

    monkeypatch.setattr(Authenticator, "lapse", lapse)


async def test_a_token_is_renewed_on_the_connection_that_there_is(
    page: Page, guarded: Gateway, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    await visit(page, guarded.http.base_url)
    # The client takes the first one for expired, the gateway does not yet.
    tokens = [{"token": token("alice", lasts_s=60), "expiresAt": 1}, token("alice")]
    phone = await client(page, tokens=tokens)
    await phone.next("ready")
    [connection] = guarded.house.connections
    await phone.next("asked", count=2)
    await phone.send("안녕")
    await phone.next("accepted")
    expiring(monkeypatch, until=time.time() + 120)
    connection.check_rights()
    await (await call_of(model)).complete()
    await phone.next("complete")
    assert list(guarded.house.connections) == [connection]


async def test_a_token_that_has_expired_is_replaced(
    page: Page, guarded: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await visit(page, guarded.http.base_url)
    old = {"token": token("alice", lasts_s=60), "expiresAt": 2**42}
    phone = await client(page, tokens=[old, token("alice")])
    await phone.next("ready")
    [connection] = guarded.house.connections
    with monkeypatch.context() as patch:
        expiring(patch, until=time.time() + 120)
        connection.check_rights()
    await phone.next("state", state="waiting")
    await phone.next("asked", count=2)
    await phone.next("ready")


async def test_a_key_is_known_where_nobody_needs_one(
    page: Page, tmp_path: Path, model: ScriptedModel
) -> None:
    settings = access_settings(tmp_path, model.url, allow_anonymous=True)
    async with on_sockets(settings) as gateway:
        await visit(page, gateway.http.base_url)
        for name, options in {"alice": {"token": ALICE}, "anonymous": {}}.items():
            await (await client(page, name, **options)).next("ready")
        assert gateway.rows("SELECT owner FROM owners WHERE owner LIKE 'key:%'") == [("key:alice",)]


async def test_who_sends_too_much_gets_it_back(
    page: Page, guarded: Gateway, model: ScriptedModel
) -> None:
    await visit(page, guarded.http.base_url)
    phone = await client(page, token=ALICE, timing={"sendForMs": 5_000})
    await phone.send("하나")
    await (await call_of(model)).complete()
    await phone.next("complete")
    await phone.send("둘")
    refused = await phone.next("refused")
    assert (refused["message"], refused["error"]["code"]) == ("둘", "rate_limited")
    assert refused["error"]["retry_after_ms"] > 5_000
    assert asked(guarded) == ["하나"]
