"""How a WebSocket begins: which session, which place in it, which subprotocol, which origin."""

import json
from pathlib import Path
from uuid import UUID

import anyio
import pytest
from httpx_ws import AsyncWebSocketSession, WebSocketDisconnect, WebSocketUpgradeError, aconnect_ws

from tests.gateway.harness import WITHIN_S, Gateway, in_process, on_sockets, settings_for
from tests.llm.scripted import ScriptedModel

NOBODY = "00000000-0000-4000-8000-000000000000"


async def test_ready_is_the_first_frame_and_says_where_the_connection_stands(
    gateway: Gateway,
) -> None:
    async with gateway.tab() as tab:
        assert set(tab.ready) == {
            *("type", "protocol", "session_id", "created", "resumed", "cursor"),
            *("heartbeat_s", "limits", "turn"),
        }
        assert tab.ready["type"] == "ready"
        assert tab.ready["protocol"] == "midm.chat.v1"
        assert tab.ready["cursor"] == "0.0.end"
        assert tab.ready["heartbeat_s"] == 25
        assert tab.ready["resumed"] is False
        assert tab.ready["turn"] is None
        assert tab.ready["limits"] == {
            "max_message_chars": 32_000,
            "max_new_tokens": 8_192,
            "max_request_id_chars": 64,
            "max_frame_bytes": 512 * 1024,
        }


async def test_without_a_session_one_is_created(gateway: Gateway) -> None:
    async with gateway.tab() as tab:
        assert tab.ready["created"] is True
        assert str(UUID(tab.session_id)) == tab.session_id
        found = await gateway.http.get(f"/api/sessions/{tab.session_id}")
    assert found.status_code == 200
    assert found.json()["metadata"] == {}


async def test_a_given_session_is_joined(gateway: Gateway) -> None:
    session_id = await gateway.new_session()
    async with gateway.tab(session_id) as tab:
        assert tab.session_id == session_id
        assert tab.ready["created"] is False


async def test_joining_counts_as_use_of_the_session(gateway: Gateway) -> None:
    session_id = await gateway.new_session()
    before = (await gateway.http.get(f"/api/sessions/{session_id}")).json()["last_accessed"]
    async with gateway.tab(session_id) as tab:
        await tab.settle()
        # Use is noted without waiting for it; writes are committed in their order.
        await gateway.new_session()
        [(after,)] = gateway.rows(
            "SELECT last_accessed FROM sessions WHERE session_id = ?", session_id
        )
    assert after > before


@pytest.mark.parametrize("session_id", [NOBODY, "abc", "' OR 1=1 --", "%00"])
async def test_an_unknown_session_is_accepted_told_and_closed_with_4504(
    gateway: Gateway, session_id: str
) -> None:
    # A browser sees a refused handshake only as 1006, so the handshake has to succeed.
    socket: AsyncWebSocketSession
    async with aconnect_ws(f"/ws?session_id={session_id}", gateway.http) as socket:
        with anyio.fail_after(WITHIN_S):
            error = json.loads(await socket.receive_text())
            assert error["code"] == "session_not_found"
            assert error["retryable"] is False
            assert "turn" not in error
            with pytest.raises(WebSocketDisconnect) as closed:
                await socket.receive_text()
        assert closed.value.code == 4504
    assert gateway.rows("SELECT * FROM sessions") == []


async def test_an_open_turn_is_announced_with_its_status(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab, gateway.tab() as other:
        await tab.chat("first")
        await tab.next("start")
        async with gateway.tab(tab.session_id) as second:
            assert second.ready["turn"] == {"turn": 1, "status": "running"}
        await other.chat("behind")
        await other.next("queued")
        async with gateway.tab(other.session_id) as third:
            assert third.ready["turn"] == {"turn": 1, "status": "queued", "position": 1}
        async with gateway.tab(await gateway.new_session()) as idle:
            assert idle.ready["turn"] is None


@pytest.mark.parametrize(
    ("offered", "answered"),
    [
        (None, None),
        (["midm.chat.v1"], "midm.chat.v1"),
        (["midm.chat.v1", "bearer.secret"], "midm.chat.v1"),
        (["bearer.secret", "midm.chat.v1"], "midm.chat.v1"),
        (["bearer.secret", "other.v9"], "other.v9"),
    ],
)
async def test_the_subprotocol_is_one_that_was_offered_and_never_a_token(
    served: Gateway, offered: list[str] | None, answered: str | None
) -> None:
    async with served.tab(subprotocols=offered) as tab:
        assert tab.socket.subprotocol == answered


async def test_only_its_own_path_leads_to_a_websocket(served: Gateway) -> None:
    for path in ("/", "/ws/", "/wss", "/api/sessions"):
        with pytest.raises(WebSocketUpgradeError) as refused:
            async with aconnect_ws(path, served.http):
                pass
        assert refused.value.response.status_code == 403


async def test_a_token_alone_is_not_answered(served: Gateway) -> None:
    async with served.tab(subprotocols=["bearer.secret"]) as tab:
        assert tab.socket.subprotocol is None


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example",
        "file://",
        "http://[broken",
    ],
)
async def test_a_page_of_another_origin_is_refused_outright(served: Gateway, origin: str) -> None:
    with pytest.raises(WebSocketUpgradeError) as refused:
        async with served.tab(headers={"Origin": origin}):
            pass
    assert refused.value.response.status_code == 403
    assert served.rows("SELECT * FROM sessions") == []


@pytest.mark.parametrize(
    "origin",
    ["http://localhost:5173", "http://127.0.0.1:3000", "https://localhost", "http://[::1]:8080"],
)
async def test_pages_of_this_machine_may_connect_to_a_local_gateway(
    gateway: Gateway, origin: str
) -> None:
    async with gateway.tab(headers={"Origin": origin}) as tab:
        assert tab.ready["type"] == "ready"


async def test_a_page_served_by_the_same_host_may_connect(
    tmp_path: Path, model: ScriptedModel
) -> None:
    settings = settings_for(tmp_path / "chat.db", model.url, host="0.0.0.0", allow_anonymous=True)
    async with in_process(settings) as gateway:
        headers = {"Origin": "https://chat.example.org", "Host": "chat.example.org"}
        async with gateway.tab(headers=headers) as tab:
            assert tab.ready["type"] == "ready"


async def test_a_public_gateway_trusts_localhost_only_if_it_is_listed(
    tmp_path: Path, model: ScriptedModel
) -> None:
    public = {
        "host": "0.0.0.0",
        "cors_origins": "https://chat.example.org",
        "allow_anonymous": True,
    }
    async with on_sockets(settings_for(tmp_path / "chat.db", model.url, **public)) as gateway:
        async with gateway.tab(headers={"Origin": "https://chat.example.org"}) as tab:
            assert tab.ready["type"] == "ready"
        with pytest.raises(WebSocketUpgradeError):
            async with gateway.tab(headers={"Origin": "http://localhost:5173"}):
                pass
