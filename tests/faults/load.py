"""Clients that chat as fast as they can, each in a session of its own, until it is enough."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.faults.kept import Kept, confirm_ended, confirm_shown
from tests.faults.killing import World
from tests.faults.testimony import WitnessHttpClient, WitnessTab, is_ended, new_session
from tests.whole.audit import StrictLog
from tests.whole.clients import Refused


@dataclass
class Session:
    """What was asked in a session, and what was shown of it."""

    name: str
    session_id: str = ""
    logs: list[StrictLog] = field(default_factory=list)
    asked: dict[str, str] = field(default_factory=dict)

    def log(self) -> StrictLog:
        """Begin another log of this session."""
        self.logs.append(StrictLog())
        return self.logs[-1]

    def next_question(self, words: str = "살아 있나요?") -> tuple[str, str]:
        """Make up a request id and a question that is asked nowhere else."""
        request_id = f"{self.name}-{len(self.asked) + 1}"
        self.asked[request_id] = f"{request_id}: {words}"
        return request_id, self.asked[request_id]


Chat = Callable[[World, Session], Coroutine[Any, Any, None]]


async def over_a_socket(here: World, session: Session) -> None:
    """Chat in a tab."""
    async with WitnessTab(here.socket_url, here.testimony, log=session.log()) as tab:
        while not here.enough.is_set():
            request_id, question = session.next_question()
            await tab.ask(question, request_id=request_id)
    assert tab.session_id is not None
    session.session_id = tab.session_id


async def over_one_stream(here: World, session: Session) -> None:
    """Ask and read every turn with `POST /api/chat/stream`."""
    async with here.http() as http:
        session.session_id = await new_session(http, here.testimony)
        client = WitnessHttpClient(http, session.session_id, here.testimony, log=session.log())
        while not here.enough.is_set():
            request_id, question = session.next_question()
            await client.ask_and_stream(question, request_id=request_id)


async def over_an_event_source(here: World, session: Session) -> None:
    """Ask by `POST`, of either kind, and read the session's events."""
    log = session.log()
    async with here.http() as http, asyncio.TaskGroup() as tasks:
        session.session_id = await new_session(http, here.testimony)
        client = WitnessHttpClient(http, session.session_id, here.testimony, log=log)
        following = tasks.create_task(client.follow())
        await log.until(lambda: log.cursor is not None)
        while not here.enough.is_set():
            request_id, question = session.next_question()
            ask = client.ask if len(session.asked) % 2 else client.ask_and_leave
            # A turn that was killed too often is over: the stream tells of it, too.
            with suppress(Refused):
                await ask(question, request_id=request_id)
            await _until_ended(log, len(session.asked))
        following.cancel()


async def by_every_door(here: World, session: Session) -> None:
    """Send each request by every door at once, by each until it has an answer."""
    async with here.http() as http:
        session.session_id = await new_session(http, here.testimony)
        posting, streaming = (
            WitnessHttpClient(http, session.session_id, here.testimony, log=log)
            for log in (StrictLog(), session.log())
        )
        async with WitnessTab(
            here.socket_url, here.testimony, session_id=session.session_id, log=session.log()
        ) as tab:
            while not here.enough.is_set():
                request_id, question = session.next_question()
                await _send_by_every_door(tab, posting, streaming, question, request_id)


async def _send_by_every_door(
    tab: WitnessTab,
    posting: WitnessHttpClient,
    streaming: WitnessHttpClient,
    question: str,
    request_id: str,
) -> None:
    async with asyncio.TaskGroup() as doors:
        shown = doors.create_task(tab.ask(question, request_id=request_id))
        streamed = doors.create_task(streaming.ask_and_stream(question, request_id=request_id))
        doors.create_task(posting.ask_and_leave(question, request_id=request_id))
        posted = doors.create_task(posting.ask(question, request_id=request_id))
    assert shown.result().number == streamed.result().number == posted.result()["turn"]
    assert shown.result().text == streamed.result().text == posted.result()["content"]


async def _until_ended(log: StrictLog, number: int) -> None:
    await log.until(lambda: is_ended(log.turns.get(number)))


async def chat_through(
    here: World, chats: Sequence[Chat], trouble: Coroutine[Any, Any, None]
) -> tuple[list[Session], Kept]:
    """Chat while there is trouble, then in peace until all have what they asked for."""
    began = time.monotonic()
    sessions = [Session(f"session{index}") for index in range(len(chats))]
    async with asyncio.TaskGroup() as tasks:
        pairs = zip(chats, sessions, strict=True)
        chatting = [tasks.create_task(chat(here, session)) for chat, session in pairs]
        await trouble
        async with here.gateway() as program:
            here.enough.set()
            await asyncio.gather(*chatting)
            assert await program.stop() == 0
            assert program.complaints == []
    kept = here.confirm()
    print(_figures(here, kept, time.monotonic() - began))
    return sessions, kept


def _figures(here: World, kept: Kept, took_s: float) -> str:
    again = [turn for turn in kept.turns if turn.attempt > 1]
    interrupted = [turn for turn in kept.turns if turn.status == "interrupted"]
    return (
        f"{here.deaths} deaths, {len(kept.turns)} turns, {len(again)} taken up again, "
        f"{len(interrupted)} of them interrupted, {len(here.testimony.promises)} promises, "
        f"{sum(here.testimony.counts.values())} events, {took_s:.1f} s"
    )


def check(session: Session, kept: Kept) -> None:
    """See that every request became exactly one turn, which is shown as it is stored."""
    turns = kept.of_session(session.session_id)
    assert {turn.request_id: turn.question for turn in turns} == session.asked
    assert [turn.turn for turn in turns] == list(range(1, len(session.asked) + 1))
    for turn in turns:
        confirm_ended(turn)
    for log in session.logs:
        confirm_shown(log, turns)
