"""Many clients at once, on real sockets that keep breaking: nothing is lost, nothing comes twice.

The gateway and the simulated model server are processes of their own. Between them stands a
recorder, whose bytes are the truth that every tab and the database are held against; between the
gateway and half of its clients stands a proxy that cuts connections. `WHOLE_SEED` repeats a run,
`WHOLE_CLIENTS` and `WHOLE_TURNS` make a longer one.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random, SystemRandom

import httpx

from tests.whole.audit import END, StoredTurn, StrictLog, place, stored_turns
from tests.whole.clients import Json
from tests.whole.clumsy import ClumsyHttpClient, ClumsyTab
from tests.whole.http_client import load_history
from tests.whole.processes import Program, gateway, simulator
from tests.whole.proxy import Call, Recorder, Scissors, forwarding

WEBSOCKETS = int(os.environ.get("WHOLE_CLIENTS", "50"))
HTTP_CLIENTS = max(WEBSOCKETS // 5, 2)
TURNS = int(os.environ.get("WHOLE_TURNS", "5"))
SEED = os.environ.get("WHOLE_SEED") or str(SystemRandom().randrange(10**6))
WITHIN_S = 60 + WEBSOCKETS * TURNS / 5

MODEL_CALLS = 16
CONTEXT_EXCHANGES = 4  # ten messages, the question included, and never half an exchange
PATIENCE = httpx.Timeout(30)

QUESTIONS = (
    "안녕하세요, 저는 {name}입니다",
    "Hello, this is {name}",
    "{name}: 對話를 보여 주세요 🙌",
    "{name} asks for odd separators #sim u2028=1#",
    "{name}: 조각난 글자로 #sim split_utf8=1 junk=1#",
    "{name} wants nothing at all #sim pieces=0#",
    "{name} wants it all at once #sim pieces=400 interval_ms=0#",
)


@dataclass
class Session:
    """One session of the run: every log that was kept of it, and what was asked in it."""

    name: str
    dice: Random
    logs: list[StrictLog] = field(default_factory=list)
    questions: dict[str, str] = field(default_factory=dict)
    replies: dict[str, str] = field(default_factory=dict)
    cuts: int = 0
    connections: int = 0
    duplicates: int = 0

    def log(self) -> StrictLog:
        """Begin another log of this session."""
        self.logs.append(StrictLog())
        return self.logs[-1]

    def next_question(self) -> tuple[str, str]:
        """Make up a request id and a question that is asked nowhere else."""
        request_id = f"{self.name}-{len(self.questions) + 1}"
        question = self.dice.choice(QUESTIONS).format(name=request_id)
        self.questions[request_id] = question
        return request_id, question

    def count(self, client: ClumsyTab | ClumsyHttpClient) -> None:
        """Add up what became of a client's connections."""
        self.cuts += client.fate.cuts
        if isinstance(client, ClumsyTab):
            self.connections += client.connections
            self.duplicates += client.duplicates
        else:
            self.connections += client.requests


@dataclass
class Run:
    """The processes of one run, and the sessions it had."""

    gateway: Program
    database: Path
    recorder: Recorder
    scissors: Scissors
    cut_url: str
    sessions: list[Session] = field(default_factory=list)

    def session(self, kind: str, index: int) -> Session:
        """Begin a session whose dice depend on nothing but the seed and its name."""
        name = f"{kind}{index}"
        self.sessions.append(Session(name, Random(f"{SEED}-{name}")))
        return self.sessions[-1]

    def url(self, index: int) -> str:
        """Every other client comes through the proxy."""
        return self.cut_url if index % 2 else self.gateway.url

    @asynccontextmanager
    async def http(self, url: str) -> AsyncIterator[httpx.AsyncClient]:
        """A client for HTTP that keeps no connection: a kept one may be cut while it is idle."""
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(
            base_url=url, timeout=PATIENCE, limits=limits, trust_env=False
        ) as http:
            yield http


async def test_every_reply_arrives_once_and_whole_however_often_connections_break(
    tmp_path: Path,
) -> None:
    print(f"WHOLE_SEED={SEED}")
    began = time.monotonic()
    async with asyncio.timeout(WITHIN_S), _run(tmp_path) as run:
        async with asyncio.TaskGroup() as clients:
            for index in range(WEBSOCKETS):
                clients.create_task(_chat_over_websockets(run, index))
            for index in range(HTTP_CLIENTS):
                chat = _chat_over_one_stream if index % 2 else _chat_over_an_event_source
                clients.create_task(chat(run, index))
        code = await run.gateway.stop()
    took_s = time.monotonic() - began
    print(_figures(run, took_s))
    assert code == 0
    assert run.gateway.complaints == []
    _check(run)


# The clients


async def _chat_over_websockets(run: Run, index: int) -> None:
    """One tab asks; in most sessions a second one comes in at a random moment and reads along."""
    session = run.session("ws", index)
    url = f"{run.url(index).replace('http', 'ws', 1)}/ws"
    tab = ClumsyTab(url, log=session.log(), dice=session.dice)
    async with tab, asyncio.TaskGroup() as others:
        if session.dice.random() < 0.6:
            others.create_task(_read_along(run, session, tab))
        for _ in range(TURNS):
            request_id, question = session.next_question()
            turn = await tab.ask(question, request_id=request_id)
            assert turn.question == question
    session.count(tab)


async def _read_along(run: Run, session: Session, first: ClumsyTab) -> None:
    dice = Random(f"{SEED}-{session.name}-second")
    number, chars = dice.randint(1, TURNS), dice.randint(0, 300)
    log = session.log()

    def is_so_far() -> bool:
        turn = first.log.turns.get(number)
        return turn is not None and (turn.ending is not None or len(turn.text) >= chars)

    await first.until(is_so_far)
    assert first.session_id is not None
    if dice.random() < 0.5:
        async with run.http(run.gateway.url) as http:
            log.load(await load_history(http, first.session_id))
    url = f"{run.url(dice.randint(0, 1)).replace('http', 'ws', 1)}/ws"
    async with ClumsyTab(url, session_id=first.session_id, log=log, dice=dice) as tab:
        await tab.until(lambda: log.cursor is not None and place(log.cursor) >= (TURNS, 1, END))
    session.count(tab)


async def _chat_over_one_stream(run: Run, index: int) -> None:
    """Every turn is asked, and read, with `POST /api/chat/stream`."""
    session = run.session("stream", index)
    async with run.http(run.gateway.url) as direct, run.http(run.url(index // 2)) as http:
        session_id = await _new_session(direct)
        client = ClumsyHttpClient(http, session_id, log=session.log(), dice=session.dice)
        for _ in range(TURNS):
            request_id, question = session.next_question()
            await client.ask_and_stream(question, request_id=request_id)
    session.count(client)


async def _chat_over_an_event_source(run: Run, index: int) -> None:
    """The questions go by `POST`, of either kind; the replies come as the session's events."""
    session = run.session("source", index)
    log = session.log()
    async with run.http(run.gateway.url) as direct, run.http(run.url(index // 2)) as http:
        session_id = await _new_session(direct)
        client = ClumsyHttpClient(http, session_id, log=log, dice=session.dice)
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(client.follow())
            await log.until(lambda: log.cursor is not None)
            for number in range(1, TURNS + 1):
                await _post(session, client)
                await log.until(lambda number=number: _is_over(log, number))  # type: ignore[misc]
            following.cancel()
    session.count(client)


async def _post(session: Session, client: ClumsyHttpClient) -> None:
    request_id, question = session.next_question()
    if session.dice.random() < 0.5:
        await client.ask_and_leave(question, request_id=request_id)
    else:
        reply = await client.ask(question, request_id=request_id)
        session.replies[request_id] = reply["content"]


async def _new_session(http: httpx.AsyncClient) -> str:
    created = await http.post("/api/sessions", json={})
    session_id: str = created.json()["session_id"]
    return session_id


def _is_over(log: StrictLog, number: int) -> bool:
    return number in log.turns and log.turns[number].ending is not None


# The run


@asynccontextmanager
async def _run(directory: Path) -> AsyncIterator[Run]:
    recorder, scissors = Recorder(), Scissors(Random(f"{SEED}-scissors"))
    async with (
        simulator(directory, interval_ms=3) as model,
        forwarding(model.url, recorder) as model_url,
        gateway(
            directory, LLM_SERVER_URL=model_url, LLM_MAX_CONCURRENCY=str(MODEL_CALLS)
        ) as program,
        forwarding(program.url, scissors) as cut_url,
    ):
        yield Run(program, directory / "chat.db", recorder, scissors, cut_url)
        assert await model.stop() == 0
        assert model.complaints == []


def _figures(run: Run, took_s: float) -> str:
    cuts = sum(session.cuts for session in run.sessions)
    connections = sum(session.connections for session in run.sessions)
    logs = sum(len(session.logs) for session in run.sessions)
    duplicates = sum(session.duplicates for session in run.sessions)
    turns = sum(len(session.questions) for session in run.sessions)
    events = sum(log.events for session in run.sessions for log in session.logs)
    return (
        f"{WEBSOCKETS} WebSocket and {HTTP_CLIENTS} HTTP clients, {logs} logs, {turns} turns, "
        f"{events} events, {cuts} cuts by clients, {run.scissors.cuts} by the proxy, "
        f"{connections} connections, {duplicates} duplicates, {took_s:.1f} s"
    )


# The truth


def _check(run: Run) -> None:
    calls = run.recorder.calls()
    assert all(len(asked) == 1 for asked in calls.values()), "a turn ran twice"
    said = {question: asked[0].reply for question, asked in calls.items()}
    stored: dict[str, list[StoredTurn]] = {}
    for turn in stored_turns(run.database):
        stored.setdefault(turn.session_id, []).append(turn)
    assert len(stored) == len(run.sessions)
    for session in run.sessions:
        [turns] = [ts for ts in stored.values() if ts[0].request_id in session.questions]
        _check_stored(session, turns, said)
        _check_contexts(turns, calls)
        for log in session.logs:
            _check_log(log, turns)


def _check_stored(session: Session, turns: list[StoredTurn], said: dict[str, str]) -> None:
    assert [turn.turn for turn in turns] == list(range(1, TURNS + 1))
    assert [turn.request_id for turn in turns] == list(session.questions)
    assert [turn.question for turn in turns] == list(session.questions.values())
    assert [turn.reply for turn in turns] == [said[turn.question] for turn in turns]
    assert {(turn.status, turn.attempt) for turn in turns} == {("complete", 1)}
    for turn in turns:
        assert session.replies.get(turn.request_id or "", turn.reply) == turn.reply


def _check_contexts(turns: list[StoredTurn], calls: dict[str, list[Call]]) -> None:
    """The model was asked with the exchanges before, which it had all answered."""
    for index, turn in enumerate(turns):
        before = [earlier for earlier in turns[:index] if (earlier.reply or "").strip()]
        _, *asked = calls[turn.question][0].messages
        expected: list[Json] = []
        for earlier in before[-CONTEXT_EXCHANGES:]:
            expected.append({"role": "user", "content": earlier.question})
            expected.append({"role": "assistant", "content": earlier.reply})
        assert asked == [*expected, {"role": "user", "content": turn.question}]


def _check_log(log: StrictLog, turns: list[StoredTurn]) -> None:
    """A tab shows every turn from where it came in on, as it is stored."""
    followed = turns[len(turns) - len(log.turns) :]
    shown = [log.turns[number] for number in sorted(log.turns)]
    assert [turn.number for turn in shown] == [turn.turn for turn in followed]
    assert [turn.question for turn in shown] == [turn.question for turn in followed]
    assert [turn.text for turn in shown] == [turn.reply for turn in followed]
    assert all(turn.ending is not None for turn in shown)
