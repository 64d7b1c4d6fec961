"""A model server that goes wrong on request, and all the ways in which it does.

A fault is what happens to one call; the server then waits until its client has hung up. Paces in
here are those of a slow server, never a wait for anything.
"""

import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.abc import TaskGroup

from tests.llm.scripted import Call, ScriptedModel, event

Fault = Callable[[Call], Coroutine[Any, Any, None]]

INNER = "KeyError: 'gpu' at http://10.7.7.7:9977/v1, Traceback (most recent call last)"
"""What a model server says of itself, and no client may ever see."""

PACE_S = 0.005
SAID = ("반 ", "쯤 ")
GOOD = ("이제 ", "괜찮아요.")

_EVENT_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
_HEAD = _EVENT_STREAM + b"transfer-encoding: chunked\r\n\r\n"
_JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
_HALF_AN_ANSWER = (_JSON_HEAD % 1000) + b'{"response": "'
_JUNK = (
    b"data: nonsense\n\n",
    b"data: [1, 2]\n\n",
    b"data: null\n\n",
    b'data: {"type": "chunk"}\n\n',
    b'data: {"type": "chunk", "content": 5}\n\n',
    b'data: {"type": "mystery", "content": "?"}\n\n',
    b"event: chunk\nid: 7\n\n",
    b": a comment\n\n",
    b"\xff\xfe\n\n",
)


class FaultyModel:
    """Plays `fault` on each call; assign another one and it is that server from then on.

    `calls` are those it has seen, `open` those whose client has not hung up yet.
    """

    def __init__(self, model: ScriptedModel, fault: Fault) -> None:
        self.url = model.url
        self.port = int(model.url.rpartition(":")[2])
        self.fault = fault
        self.calls: list[Call] = []
        self.open: set[Call] = set()
        self.news = anyio.Event()
        self._model = model

    async def seen(self, calls: int) -> Call:
        """Wait until that many calls have come and the last one's client has hung up."""
        while len(self.calls) < calls or self.calls[-1] in self.open:
            await self.news.wait()
        return self.calls[-1]

    async def serve(self, tasks: TaskGroup) -> None:
        while True:
            call = await self._model.call()
            self.calls.append(call)
            self.open.add(call)
            self._tell()
            tasks.start_soon(self._play, call, self.fault)

    async def _play(self, call: Call, fault: Fault) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fault, call)
            await call.closed()
            tasks.cancel_scope.cancel()
        self.open.discard(call)
        self._tell()

    def _tell(self) -> None:
        self.news.set()
        self.news = anyio.Event()


class MuteHealth(ScriptedModel):
    """A model server that answers nobody after its health until `tells` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.tells = anyio.Event()

    async def _answer_health(self, call: Call) -> None:
        await self.tells.wait()
        await super()._answer_health(call)


@asynccontextmanager
async def faulty(fault: Fault, *, model: ScriptedModel | None = None) -> AsyncIterator[FaultyModel]:
    """Run a model server that plays a fault on each call."""
    async with model or ScriptedModel() as running, anyio.create_task_group() as tasks:
        server = FaultyModel(running, fault)
        tasks.start_soon(server.serve, tasks)
        yield server
        tasks.cancel_scope.cancel()


def in_turn(*faults: Fault) -> Fault:
    """One fault for each call in turn, the last one for all that follow."""
    following = itertools.chain(faults, itertools.repeat(faults[-1]))

    async def play(call: Call) -> None:
        await next(following)(call)

    return play


# No fault


async def well(call: Call) -> None:
    """Reply as a model server in good order."""
    if call.path.endswith("/stream"):
        await call.say(*GOOD)
        await call.complete()
    else:
        await call.answer("".join(GOOD))


# A connection that breaks


async def cut(call: Call) -> None:
    """Reset the connection."""
    await call.cut()


async def vanish(call: Call) -> None:
    """Close the connection."""
    await call.vanish()


async def half_an_answer(call: Call) -> None:
    """Begin an answer in one piece, and no more."""
    await call.wire(_HALF_AN_ANSWER)


def half_an_answer_then(then: Fault) -> Fault:
    """Break off in the middle of an answer in one piece."""

    async def play(call: Call) -> None:
        await half_an_answer(call)
        await then(call)

    return play


# An answer that is none


def status(code: int) -> Fault:
    """Answer with a status, and a page that holds what nobody should see."""

    async def answer(call: Call) -> None:
        await call.status(code, f"<html>{INNER}</html>")

    return answer


def json(answer: object) -> Fault:
    """Answer with status 200 and JSON, whatever was asked for."""

    async def reply(call: Call) -> None:
        await call.json(answer)

    return reply


def wire(data: bytes) -> Fault:
    """Send these bytes in place of an answer, and no more."""

    async def send(call: Call) -> None:
        await call.wire(data)

    return send


async def oversize_answer(call: Call) -> None:
    """Send an answer in one piece that is longer than any reply."""
    megabyte = b"x" * 1024 * 1024
    await call.wire(_JSON_HEAD % (14 * len(megabyte)))
    for _ in range(14):
        await call.wire(megabyte)


head_only = wire(_HEAD)
empty_stream = wire(_HEAD + b"0\r\n\r\n")
not_http = wire(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
half_a_head = wire(_EVENT_STREAM)


# Silence


async def mute(call: Call) -> None:
    """Say nothing at all."""


async def started(call: Call) -> None:
    """Send `start`, and nothing behind it."""
    await call.start()


async def drip(call: Call) -> None:
    """Send a byte now and then, and never a whole event."""
    await call.start()
    for byte in itertools.chain(b"data: ", itertools.repeat(ord("a"))):
        await call.raw(bytes([byte]))
        await anyio.sleep(PACE_S)


async def drip_an_answer(call: Call) -> None:
    """Send an answer in one piece, a byte now and then."""
    await half_an_answer(call)
    while True:
        await call.wire(b"a")
        await anyio.sleep(PACE_S)


async def keep_alive(call: Call) -> None:
    """Send comments for ever."""
    while True:
        await call.raw(b": still here\n\n")
        await anyio.sleep(PACE_S)


# Streams that end badly, or never


def said_then(then: Fault) -> Fault:
    """Say half a reply first."""

    async def play(call: Call) -> None:
        await call.say(*SAID)
        await then(call)

    return play


def said_nothing_then(then: Fault) -> Fault:
    """Begin a stream first, without a word."""

    async def play(call: Call) -> None:
        await call.start()
        await then(call)

    return play


async def end(call: Call) -> None:
    """End the stream in good order, without `complete`."""
    await call.end()


def error(message: str) -> Fault:
    """End the stream with an error event."""

    async def play(call: Call) -> None:
        await call.error(message)

    return play


async def error_and_no_end(call: Call) -> None:
    """Send an error event, and leave the stream open behind it."""
    await call.raw(event({"type": "error", "message": INNER}))


async def junk(call: Call) -> None:
    """Send events that make no sense."""
    for data in _JUNK:
        await call.raw(data)


async def junk_for_ever(call: Call) -> None:
    """Send events that make no sense, without an end."""
    for data in itertools.cycle(_JUNK):
        await call.raw(data)
        await anyio.sleep(PACE_S)


async def junk_then_end(call: Call) -> None:
    """Send events that make no sense, and end in good order."""
    await junk(call)
    await call.end()


async def junk_then_well(call: Call) -> None:
    """Send events that make no sense before and within a good reply."""
    await junk(call)
    await call.say(GOOD[0])
    await junk(call)
    await call.say(*GOOD[1:])
    await call.complete()


async def talk_for_ever(call: Call) -> None:
    """Say a word now and then, without an end."""
    for count in itertools.count(1):
        await call.raw(_piece("말 ", count))
        await anyio.sleep(PACE_S)


async def talk_too_much(call: Call) -> None:
    """Say more than any reply may hold, as fast as it is heard."""
    for count in range(1, 13):
        await call.raw(_piece("가" * 100_000, count))


async def oversize_event(call: Call) -> None:
    """Send an event that is longer than any reply."""
    await call.raw(b"data: ")
    for _ in range(14):
        await call.raw(b"x" * 1024 * 1024)


def _piece(text: str, count: int) -> bytes:
    # Without `accumulated`, which would grow with the square of the text, and which nobody reads.
    return event({"type": "chunk", "content": text, "token_count": count})
