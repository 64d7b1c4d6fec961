"""Sessions deleted at every moment of a turn, many at once, while others go on undisturbed."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import anyio
import httpx
import pytest
from httpx_ws import AsyncWebSocketSession, aconnect_ws

from gateway import rest
from gateway.house import House
from protocol.server_frames import Frame
from storage.claims import Claim
from tests.faults.leaks import Held, nothing_more_is_held_than
from tests.faults.posts import Answer, request
from tests.gateway.harness import Gateway, Json, Tab, on_sockets, settings_for
from tests.llm.scripted import Call, ScriptedModel

WITHIN_S = 20.0
MAX_CALLS = 8
OF_EACH = 4
BYSTANDERS = 12
TURNS_EACH = 3

MOMENTS = ("accepting", "waiting", "streaming", "ending", "reading")
ENDLESS = ("accepting", "waiting", "streaming")
"""What the model goes on saying until it is left alone."""

ASKED_BY = ("tab", "/api/chat", "/api/chat/stream")
TEXT = "잘 지내요."
TABLES = ("sessions", "turns", "messages", "message_order")


class Talker:
    """The model server: it says what the question wants, and knows who has hung up."""

    def __init__(self, model: ScriptedModel) -> None:
        self._model = model
        self._open = 0
        self._quiet = anyio.Event()

    async def talk(self) -> None:
        """Answer every call, each in a task of its own."""
        async with anyio.create_task_group() as tasks:
            while True:
                call = await self._model.call()
                self._open += 1
                tasks.start_soon(self._answer, call)

    async def left_alone(self) -> None:
        """Wait until every call was answered or closed."""
        while self._open:
            self._quiet = anyio.Event()
            await self._quiet.wait()

    async def _answer(self, call: Call) -> None:
        endless = call.messages[-1]["content"].startswith(ENDLESS)
        if call.path == "/chat/stream":
            await call.say(TEXT)
        if endless:
            await call.closed()
        else:
            await (call.complete() if call.path == "/chat/stream" else call.answer(TEXT))
        self._open -= 1
        self._quiet.set()


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as model:
        yield model


@pytest.fixture
async def gateway(tmp_path: Path, model: ScriptedModel) -> AsyncIterator[Gateway]:
    settings = settings_for(tmp_path / "chat.db", model.url, llm_max_concurrency=MAX_CALLS)
    async with on_sockets(settings) as gateway:
        # As many connections as there are clients, and none that outlives its use.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        url = gateway.http.base_url
        async with httpx.AsyncClient(
            base_url=url, timeout=WITHIN_S, trust_env=False, limits=limits
        ) as http:
            yield replace(gateway, http=http)


_READY: Json = {"session_id": "", "cursor": ""}


async def new_session(gateway: Gateway) -> str:
    created = await request(gateway, "POST", "/api/sessions", {})
    session_id: str = created.json()["session_id"]
    return session_id


class Victim:
    """A session that is deleted at a moment of its turn, while two tabs and others read it."""

    def __init__(self, gateway: Gateway, moment: str, asked_by: str) -> None:
        self.session_id = ""
        self._gateway = gateway
        self._moment = moment
        self._asked_by = asked_by
        self._deletions: list[int] = []

    async def live_and_die(self) -> None:
        """Be deleted; everybody who reads or asks comes to an end, and is told why."""
        gateway = self._gateway
        self.session_id = await new_session(gateway)
        async with gateway.tab(self.session_id) as tab, gateway.tab(self.session_id) as other:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._read_events)
                await self._ask(tab, tasks)
                await self._moment_comes(other)
                for _ in range(2):
                    tasks.start_soon(self._delete)
                    tasks.start_soon(self._read_history)
                    tasks.start_soon(self._read_events)
                    tasks.start_soon(self._join)
            for each in (tab, other):
                assert await each.closed() == 4504
                assert_ends_at_most_once(each)
        assert sorted(self._deletions) == [204, 404]

    async def _ask(self, tab: Tab, tasks: anyio.abc.TaskGroup) -> None:
        if self._asked_by == "tab":
            await tab.send(type="chat", message=self._moment)
        else:
            tasks.start_soon(self._post, self._asked_by)

    async def _moment_comes(self, tab: Tab) -> None:
        match self._moment:
            case "waiting":
                await tab.next("start", "queued")
            case "streaming" if self._asked_by != "/api/chat":
                await tab.next("token")
            case "streaming":
                await tab.next("start")
            case "ending":
                await tab.next("token")
            case "reading":
                await tab.next("complete")

    async def _post(self, path: str) -> None:
        body = {"session_id": self.session_id, "message": self._moment}
        answer = await request(self._gateway, "POST", path, body, within_s=WITHIN_S)
        if answer.status != 200:
            assert_gone(answer)
        elif path == "/api/chat":
            assert answer.json()["content"] == TEXT
        else:
            last = answer.events()[-1]
            assert last["type"] == "complete" or "session_not_found" in last["code"]
            assert last["type"] == "complete" or "id" not in last

    async def _delete(self) -> None:
        path = f"/api/sessions/{self.session_id}"
        deleted = await request(self._gateway, "DELETE", path, within_s=WITHIN_S)
        self._deletions.append(deleted.status)

    async def _read_history(self) -> None:
        path = f"/api/sessions/{self.session_id}/messages"
        page = await request(self._gateway, "GET", path, within_s=WITHIN_S)
        if page.status == 200:
            assert page.json()["total_count"] == len(page.json()["messages"]) <= 2
        else:
            assert_gone(page)

    async def _read_events(self) -> None:
        path = f"/api/sessions/{self.session_id}/events?after=0.0.end"
        answer = await request(self._gateway, "GET", path, within_s=WITHIN_S)
        if answer.status == 200:
            *_, last = answer.body.rstrip(b"\n").split(b"\n")
            assert json.loads(last[6:])["code"] == "session_not_found"
        else:
            assert_gone(answer)

    async def _join(self) -> None:
        # Whether it comes in time for its `ready` or not.
        socket: AsyncWebSocketSession
        url = f"/ws?session_id={self.session_id}"
        async with aconnect_ws(url, self._gateway.http) as socket:
            assert await Tab(socket, _READY).closed() == 4504


def assert_gone(answer: Answer) -> None:
    assert (answer.status, answer.json()["code"]) == (404, "session_not_found")


def assert_ends_at_most_once(tab: Tab) -> None:
    ends = [frame for frame in tab.frames if frame["type"] in ("complete", "error")]
    assert len(ends) <= 1


async def chat_undisturbed(gateway: Gateway, texts: list[Json]) -> None:
    """Somebody whom all this is none of the business of."""
    async with gateway.tab(await new_session(gateway)) as tab:
        for turn in range(1, TURNS_EACH + 1):
            await tab.chat(f"안녕 {turn}")
            end = await tab.ends(turn)
            texts.append({"finish_reason": end["finish_reason"], "text": tab.text(turn)})


async def test_sessions_are_deleted_at_every_moment_while_others_go_on(
    gateway: Gateway, model: ScriptedModel
) -> None:
    talker = Talker(model)
    victims = [
        Victim(gateway, moment, asked_by)
        for _, moment, asked_by in product(range(OF_EACH), MOMENTS, ASKED_BY)
    ]
    texts: list[Json] = []
    async with anyio.create_task_group() as background:
        background.start_soon(talker.talk)
        held = Held.now()
        with anyio.fail_after(WITHIN_S):
            async with anyio.create_task_group() as tasks:
                for victim in victims:
                    tasks.start_soon(victim.live_and_die)
                for _ in range(BYSTANDERS):
                    tasks.start_soon(chat_undisturbed, gateway, texts)
            await talker.left_alone()
            await nothing_more_is_held_than(held)
        background.cancel_scope.cancel()
    assert texts == [{"finish_reason": "stop", "text": TEXT}] * BYSTANDERS * TURNS_EACH
    assert_nothing_is_left(gateway, victims)


def assert_nothing_is_left(gateway: Gateway, victims: list[Victim]) -> None:
    """Neither in the house nor in its database."""
    house = gateway.house
    assert (house.turns.running, house.admission.calls, house.admission.waiting) == (0, 0, 0)
    assert not house.connections
    assert not any(victim.session_id in house.broker.watched() for victim in victims)
    messages = 2 * BYSTANDERS * TURNS_EACH
    counts = (BYSTANDERS, BYSTANDERS * TURNS_EACH, messages, messages)
    for table, count in zip(TABLES, counts, strict=True):
        assert gateway.rows(f"SELECT count(*) FROM {table}") == [(count,)]
        for victim in victims:
            left = f"SELECT 1 FROM {table} WHERE session_id = ?"
            assert gateway.rows(left, victim.session_id) == []
    assert gateway.rows("PRAGMA foreign_key_check") == []
    assert gateway.rows("SELECT * FROM turns WHERE ended_at IS NULL") == []


async def test_a_reply_that_is_deleted_before_it_is_handed_over_is_not_found(
    gateway: Gateway, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    reaches_its_end = rest._ending

    async def then_is_deleted(house: House, claim: Claim, turn: int) -> Frame:
        ending = await reaches_its_end(house, claim, turn)
        await house.turns.delete_session(claim)
        return ending

    monkeypatch.setattr(rest, "_ending", then_is_deleted)
    model.autoreply(lambda _: [TEXT])
    body = {"session_id": await new_session(gateway), "message": "안녕"}
    assert_gone(await request(gateway, "POST", "/api/chat", body))
