"""One gateway behind nginx or Caddy, configured with the lines of the first README, over TLS."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from gateway.auth.api_keys import new_key
from tests.bench.nginx import program as find_nginx
from tests.gateway.harness import call_of
from tests.llm.scripted import ScriptedModel
from tests.whole.fronts import SITE, Front, find_caddy, front, gateway_settings
from tests.whole.processes import Program, gateway
from tests.whole.waiting import next_event, next_frame

WITHIN_S = 20.0
PIECES = ("하나 ", "둘 ", "셋")
SOMEBODY = "203.0.113.7"

FOUND = {"nginx": find_nginx(), "caddy": find_caddy()}


@dataclass
class Site:
    """A gateway that asks for keys, a proxy in front of it, and who has a key."""

    gateway: Program
    front: Front
    key: str

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def tab(self, **options: Any) -> connect:
        headers = self.bearer | options.pop("additional_headers", {})
        # By address: nobody asks the name service where example.org is.
        return connect(
            f"wss://{self.front.host}/ws",
            sock=socket.create_connection(("127.0.0.1", self.front.port)),
            ssl=self.front.trust,
            additional_headers=headers,
            proxy=None,
            **options,
        )

    @asynccontextmanager
    async def http(self) -> AsyncIterator[httpx.AsyncClient]:
        async def name_the_site(request: httpx.Request) -> None:
            request.extensions["sni_hostname"] = SITE

        async with httpx.AsyncClient(
            base_url=f"https://127.0.0.1:{self.front.port}",
            headers=self.bearer | {"Host": self.front.host},
            event_hooks={"request": [name_the_site]},
            verify=self.front.trust,
            timeout=WITHIN_S,
            trust_env=False,
        ) as http:
            yield http


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as model:
        yield model


@pytest.fixture(
    params=[
        pytest.param(
            kind,
            marks=pytest.mark.skipif(found is None, reason=f"{kind} is not installed"),
        )
        for kind, found in FOUND.items()
    ]
)
def kind(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@asynccontextmanager
async def site(
    kind: str, directory: Path, model: ScriptedModel, **settings: str
) -> AsyncIterator[Site]:
    """Run it with the README's own settings, and these beside."""
    key, kept = new_key("alice")
    told = gateway_settings()
    (directory / told["API_KEYS_FILE"]).write_text(f"{kept.line}\n")
    given = told | {"LLM_SERVER_URL": model.url} | settings
    async with asyncio.timeout(2 * WITHIN_S), gateway(directory, **given) as program:
        port = httpx.URL(program.url).port or 0
        async with front(kind, directory / kind, port) as before:
            yield Site(program, before, key)
        assert before.complaints + program.complaints == []


async def test_each_piece_of_a_reply_comes_through_at_once_by_websocket_and_by_event_streams(
    kind: str, tmp_path: Path, model: ScriptedModel
) -> None:
    async with site(kind, tmp_path, model) as here, here.http() as http, here.tab() as tab:
        session_id = (await next_frame(tab, "ready"))["session_id"]
        body = {"session_id": session_id, "message": "안녕하세요"}
        async with (
            http.stream("GET", f"/api/sessions/{session_id}/events") as following,
            http.stream("POST", "/api/chat/stream", json=body) as asking,
        ):
            streams = [following.aiter_lines(), asking.aiter_lines()]
            call = await call_of(model)
            for piece in PIECES:
                await call.say(piece)
                # The model says no more before this has arrived everywhere.
                assert (await next_frame(tab, "token"))["content"] == piece
                for lines in streams:
                    assert (await next_event(lines, "token"))["content"] == piece
            await call.complete()
            assert (await next_frame(tab, "complete"))["finish_reason"] == "stop"
            for lines in streams:
                await next_event(lines, "complete")


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://{host}", 101),
        ("https://chat.example.org:1", 403),
        ("https://evil.example", 403),
    ],
)
async def test_a_page_of_the_site_is_let_in_and_no_other(
    kind: str, tmp_path: Path, model: ScriptedModel, origin: str, status: int
) -> None:
    async with site(kind, tmp_path, model) as here:
        try:
            async with here.tab(origin=origin.format(host=here.front.host)) as tab:
                await next_frame(tab, "ready")
                met = 101
        except InvalidStatus as refused:
            met = refused.response.status_code
        assert met == status


async def test_who_has_no_key_is_refused_though_the_proxy_is_on_this_machine(
    kind: str, tmp_path: Path, model: ScriptedModel
) -> None:
    async with site(kind, tmp_path, model) as here, here.http() as http:
        del http.headers["Authorization"]
        assert (await http.post("/api/sessions")).status_code == 401


async def test_what_a_client_says_of_its_own_address_is_not_believed(
    kind: str, tmp_path: Path, model: ScriptedModel
) -> None:
    # This machine itself is not counted; whoever else may open one at once.
    async with site(kind, tmp_path, model, HANDSHAKES_PER_MINUTE="4") as here:
        for _ in range(3):
            async with here.tab(additional_headers={"X-Forwarded-For": SOMEBODY}) as tab:
                await next_frame(tab, "ready")


async def test_who_leaves_the_proxy_is_gone_for_the_gateway(
    kind: str, tmp_path: Path, model: ScriptedModel
) -> None:
    async with site(kind, tmp_path, model) as here, here.http() as http:
        created = await http.post("/api/sessions")
        events = f"/api/sessions/{created.json()['session_id']}/events"
        async with here.tab() as tab, http.stream("GET", events) as following:
            await next_frame(tab, "ready")
            await next_event(following.aiter_lines(), "ready")
        while (await http.get("/api/health")).json()["connections"]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # another process cannot set an event
