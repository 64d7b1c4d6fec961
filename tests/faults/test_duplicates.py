"""The same request a thousand times at once, over every transport: one turn, answered to all."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest

from tests.faults.posts import Answer, request
from tests.gateway.harness import Gateway, Json, Tab, call_of, on_sockets, settings_for
from tests.llm.scripted import Call, ScriptedModel

WITHIN_S = 20.0
TABS = 10
PER_TAB = 60
POSTS = 200
OTHERS = 10

PIECES = ("안녕", "하세요, ", "반갑습니다.")
TEXT = "".join(PIECES)


@pytest.fixture
async def gateway(tmp_path: Path, model: ScriptedModel) -> AsyncIterator[Gateway]:
    """A gateway on a port that calls the model as often at once as there are questions."""
    settings = settings_for(tmp_path / "chat.db", model.url, llm_max_concurrency=64)
    async with on_sockets(settings) as gateway:
        yield gateway


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as model:
        yield model


@dataclass
class Crowd:
    """Many senders of one session, and what each of them was told."""

    gateway: Gateway
    session_id: str
    tabs: list[Tab] = field(default_factory=list)
    replies: list[Answer] = field(default_factory=list)
    streams: list[Answer] = field(default_factory=list)

    async def send(self, tab: Tab, messages: list[str], request_id: str) -> None:
        """Send on a tab without waiting between, then wait for an answer to each."""
        for message in messages:
            await tab.send(type="chat", message=message, request_id=request_id)
        for _ in messages:
            await tab.next("accepted", "error")

    async def post(self, message: str, request_id: str) -> None:
        """Ask for a whole reply."""
        self.replies.append(await self._posted("/api/chat", message, request_id))

    async def stream(self, message: str, request_id: str) -> None:
        """Ask for a stream, and read it to its end."""
        self.streams.append(await self._posted("/api/chat/stream", message, request_id))

    def told(self, kind: str) -> list[Json]:
        """All frames of a type that the tabs were sent."""
        return [frame for tab in self.tabs for frame in tab.frames if frame["type"] == kind]

    async def _posted(self, path: str, message: str, request_id: str) -> Answer:
        body = {"session_id": self.session_id, "message": message, "request_id": request_id}
        return await request(self.gateway, "POST", path, body, within_s=WITHIN_S)


async def gathered(stack: AsyncExitStack, gateway: Gateway, *, tabs: int) -> Crowd:
    """A session that is open in that many tabs."""
    crowd = Crowd(gateway, await gateway.new_session())
    for _ in range(tabs):
        crowd.tabs.append(await stack.enter_async_context(gateway.tab(crowd.session_id)))
    return crowd


async def reply_to(call: Call) -> None:
    """Answer on whichever path the model was asked."""
    if call.path == "/chat":
        await call.answer(TEXT)
    else:
        await call.say(*PIECES)
        await call.complete()


def assert_one_turn(crowd: Crowd) -> None:
    """Everybody was told of the same turn, and the same text."""
    accepted = crowd.told("accepted")
    starts, ends = crowd.told("start"), crowd.told("complete")
    assert {frame["turn"] for frame in accepted} <= {1}
    assert sum(not frame["duplicate"] for frame in accepted) <= 1
    assert len(starts) == len(ends) == len(crowd.tabs)
    assert {tab.text() for tab in crowd.tabs} <= {TEXT}
    replies = [reply.json() for reply in crowd.replies]
    assert {reply.status for reply in (*crowd.replies, *crowd.streams)} <= {200}
    assert {(reply["turn"], reply["content"]) for reply in replies} <= {(1, TEXT)}
    streams = [stream.events() for stream in crowd.streams]
    assert {told_of(events) for events in streams} <= {(1, TEXT, "start", "complete")}
    ids = {frame["message_id"] for frame in (*starts, *ends, *replies)}
    ids |= {events[-1]["message_id"] for events in streams}
    assert len(ids) == 1


def told_of(events: list[Json]) -> tuple[int, str, str, str]:
    text = "".join(event["content"] for event in events if event["type"] == "token")
    [turn] = {event["turn"] for event in events}
    return turn, text, events[0]["type"], events[-1]["type"]


async def test_of_a_thousand_equal_requests_at_once_one_runs_and_all_are_answered(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with AsyncExitStack() as stack:
        crowd = await gathered(stack, gateway, tabs=TABS)
        others = [await gathered(stack, gateway, tabs=1) for _ in range(OTHERS)]
        with anyio.fail_after(WITHIN_S):
            async with anyio.create_task_group() as tasks:
                for _ in range(POSTS):
                    tasks.start_soon(crowd.post, "질문", "하나")
                    tasks.start_soon(crowd.stream, "질문", "하나")
                for number, other in enumerate(others):
                    tasks.start_soon(other.send, other.tabs[0], ["또"] * 5, str(number))
                    for _ in range(5):
                        tasks.start_soon(other.post, "또", str(number))
                        tasks.start_soon(other.stream, "또", str(number))
                # All that come over a WebSocket come while the turn is open.
                async with anyio.create_task_group() as senders:
                    for tab in crowd.tabs:
                        senders.start_soon(crowd.send, tab, ["질문"] * PER_TAB, "하나")
                calls = [await call_of(model) for _ in range(1 + OTHERS)]
                for call in calls:
                    tasks.start_soon(reply_to, call)
            for each in (crowd, *others):
                for tab in each.tabs:
                    await ended(tab)
        assert len(crowd.told("accepted")) == TABS * PER_TAB
        for each in (crowd, *others):
            assert_one_turn(each)
        assert Counter(call.messages[-1]["content"] for call in calls) == {"질문": 1, "또": OTHERS}
        assert await next_question(gateway, model) == "하나 더"
    assert gateway.rows("SELECT count(*) FROM turns") == [(1 + OTHERS + 1,)]
    assert gateway.rows("SELECT count(*) FROM messages") == [(2 * (1 + OTHERS + 1),)]


async def ended(tab: Tab) -> None:
    """Wait for the end of the turn, unless it was passed over already."""
    if not any(frame["type"] == "complete" for frame in tab.frames):
        await tab.ends()
    await tab.settle()


async def next_question(gateway: Gateway, model: ScriptedModel) -> str:
    """Ask something new: a call that came before, and should not have, is found instead of it."""
    async with gateway.tab() as tab:
        await tab.chat("하나 더")
        call = await call_of(model)
        await reply_to(call)
        await tab.ends()
    return call.messages[-1]["content"]


async def test_a_thousand_repeats_of_what_is_over_start_nothing(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with AsyncExitStack() as stack:
        crowd = await gathered(stack, gateway, tabs=TABS)
        await crowd.tabs[0].chat("질문", request_id="하나")
        await reply_to(await call_of(model))
        for tab in crowd.tabs:
            await ended(tab)
        with anyio.fail_after(WITHIN_S):
            async with anyio.create_task_group() as tasks:
                for tab in crowd.tabs:
                    tasks.start_soon(crowd.send, tab, ["질문"] * PER_TAB, "하나")
                for _ in range(POSTS):
                    tasks.start_soon(crowd.post, "질문", "하나")
                    tasks.start_soon(crowd.stream, "질문", "하나")
            for tab in crowd.tabs:
                await ended(tab)
        [first, *repeats] = crowd.told("accepted")
        assert (first["duplicate"], first["status"]) == (False, "running")
        assert {(each["duplicate"], each["status"]) for each in repeats} == {(True, "complete")}
        assert_one_turn(crowd)
        assert await next_question(gateway, model) == "하나 더"


async def test_of_different_requests_with_one_id_one_wins_and_the_others_are_conflicts(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with AsyncExitStack() as stack:
        crowd = await gathered(stack, gateway, tabs=TABS)
        with anyio.fail_after(WITHIN_S):
            async with anyio.create_task_group() as tasks:
                for number, tab in enumerate(crowd.tabs):
                    questions = [f"탭 {number}.{each}" for each in range(20)]
                    tasks.start_soon(crowd.send, tab, questions, "하나")
                for number in range(100):
                    tasks.start_soon(crowd.post, f"전체 {number}", "하나")
                    tasks.start_soon(crowd.stream, f"조각 {number}", "하나")
                call = await call_of(model)
                tasks.start_soon(reply_to, call)
            for tab in crowd.tabs:
                await ended(tab)
        winner = call.messages[-1]["content"]
        assert {start["user_message"]["content"] for start in crowd.told("start")} == {winner}
        accepted, refused = crowd.told("accepted"), crowd.told("error")
        posted = [*crowd.replies, *crowd.streams]
        lost = [answer.json() for answer in posted if answer.status != 200]
        assert len(accepted) + len(posted) - len(lost) == 1
        assert len(accepted) + len(refused) == TABS * 20
        assert {answer.status for answer in posted} <= {200, 409}
        assert {each["code"] for each in (*refused, *lost)} == {"request_id_conflict"}
        assert {each["request_id"] for each in refused} == {"하나"}
        assert await next_question(gateway, model) == "하나 더"
    assert gateway.rows("SELECT count(*) FROM turns") == [(2,)]
