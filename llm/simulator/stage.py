"""What both wires of the simulator do: wait, send, cut, and give up when the client leaves."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llm.simulator import wire
from llm.simulator.faults import BadDirective, Faults, directed
from llm.simulator.plan import Ending, Plan
from llm.simulator.request import ChatRequest, Refused, error
from llm.simulator.settings import SimulatorSettings

HANG_UP = "llm.simulator.hang_up"
"""The ASGI extension by which `server` lends its connection: `{"close": callable}`."""


class Clock(Protocol):
    """What time it is, in seconds, and how to wait."""

    def now(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


class WallClock:
    """The time that passes."""

    now = staticmethod(time.monotonic)
    sleep = staticmethod(asyncio.sleep)


@dataclass(frozen=True)
class WhileClientStays:
    """An ASGI response that is given up the moment its client leaves."""

    answer: Callable[[Send], Awaitable[None]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_when_gone, receive, tasks.cancel_scope)
            await self.answer(send)
            tasks.cancel_scope.cancel()


async def _cancel_when_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


class Stage:
    """One simulated model: its settings, its clock, and whether it is frozen."""

    def __init__(self, settings: SimulatorSettings, clock: Clock) -> None:
        self.settings = settings
        self._every_call = settings.every_call()
        self._clock = clock
        self._frozen_until = 0.0

    def faults_of(self, chat: ChatRequest) -> Faults:
        """What a call is to suffer; raise `Refused` for a directive nobody knows."""
        asked = [index for index, message in enumerate(chat.messages) if message.role == "user"]
        if not asked:
            return self._every_call
        try:
            return directed(chat.messages[asked[-1]].content, self._every_call)
        except BadDirective as bad:
            where: list[str | int] = ["body", "messages", asked[-1], "content"]
            detail = [error("value_error", where, f"#sim: {bad}", bad.given)]
            raise Refused(422, detail) from None

    async def play(
        self, plan: Plan, first: Iterable[bytes], writes: Iterable[tuple[float, bytes]], send: Send
    ) -> None:
        """Send a stream up to its last event: `first` at once, the rest when it is due."""
        headers = list(wire.STREAM_HEADERS)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for event in first:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        started = self._clock.now()
        if plan.freezes:
            self._frozen_until = started + self.settings.freeze_ms / 1000
        for due_s, event in writes:
            await self._until(started + due_s)
            await send({"type": "http.response.body", "body": event, "more_body": True})

    async def wait(self, milliseconds: float) -> None:
        """Wait so long, and as long as the model is frozen."""
        await self._until(self._clock.now() + milliseconds / 1000)

    async def _until(self, due: float) -> None:
        # Against the schedule and not one interval after another: what a wait or a slow reader
        # costs does not add up. It waits at all even when late, or one stream of thousands of
        # pieces would keep all others from being served.
        remaining = max(due, self._frozen_until) - self._clock.now()
        await self._clock.sleep(max(remaining, 0.0))


async def end_stream(plan: Plan, request: Request, send: Send) -> None:
    """End a stream as its plan wants it."""
    if plan.ending is Ending.STALL:
        await anyio.sleep_forever()
    if plan.ending is Ending.CUT:
        await hang_up(request)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def send_whole(plan: Plan, body: bytes, failed: bytes, request: Request, send: Send) -> None:
    """Answer with a whole reply, or with what its plan makes of it: half, or the body `failed`."""
    match plan.ending:
        case Ending.COMPLETE:
            await send_json(200, body, request, send)
        case Ending.ERROR:
            await send_json(500, failed, request, send)
        case Ending.END:
            await send_json(200, body[: len(body) // 2], request, send)
        case Ending.CUT:
            response = Response(body, media_type="application/json")
            start = {"type": "http.response.start", "status": 200, "headers": response.raw_headers}
            await send(start)
            half = body[: len(body) // 2]
            await send({"type": "http.response.body", "body": half, "more_body": True})
            await hang_up(request)
        case Ending.STALL:
            await anyio.sleep_forever()


async def send_json(status: int, body: bytes, request: Request, send: Send) -> None:
    """Answer with this JSON."""
    response = Response(body, status, media_type="application/json")
    await response(request.scope, request.receive, send)


async def hang_up(request: Request) -> None:
    """Close the connection in the middle of a response."""
    # uvicorn logs an app that returns in the middle of a response, so this never returns: closing
    # the connection counts as the client's leaving, and that ends the call.
    request.scope["extensions"][HANG_UP]["close"]()
    await anyio.sleep_forever()


def phrase_of(status: int) -> str:
    """Name a status."""
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else "Unknown"


def page(status: int, message: str) -> Response:
    """Answer as what stands in front of a model server does, in HTML."""
    title = f"{status} {phrase_of(status)}"
    html = f"<html><head><title>{title}</title></head><body>{message}</body></html>\n"
    return Response(html, status, media_type="text/html")
