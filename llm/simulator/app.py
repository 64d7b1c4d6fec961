"""midm's three calls as a Starlette app: it waits and sends, what and when is decided elsewhere."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol, assert_never

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from llm.simulator import wire
from llm.simulator.faults import BadDirective, Faults, directed
from llm.simulator.plan import Ending, Plan, frozen_plan, plan_reply
from llm.simulator.request import (
    ChatRequest,
    Message,
    Refused,
    fatal,
    impossible,
    parse_chat_request,
)
from llm.simulator.script import pieces_of
from llm.simulator.settings import SimulatorSettings

HANG_UP = "llm.simulator.hang_up"
"""The ASGI extension by which `server` lends its connection: `{"close": callable}`."""

_PROMPT_TOKENS_PER_MESSAGE = 4


class Clock(Protocol):
    """What time it is, in seconds, and how to wait."""

    def now(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


class _WallClock:
    now = staticmethod(time.monotonic)
    sleep = staticmethod(asyncio.sleep)


def create_simulator(settings: SimulatorSettings, *, clock: Clock | None = None) -> Starlette:
    """An ASGI app that answers as midm does.

    A call whose client leaves is given up at once. Cutting connections needs the server of
    `llm.simulator.server`, everything else runs on any; it runs on asyncio.
    """
    model = _Model(settings, clock or _WallClock())
    return Starlette(
        routes=[
            Route("/chat", model.chat, methods=["POST"]),
            Route("/chat/stream", model.chat_stream, methods=["POST"]),
            Route("/health", model.health, methods=["GET"]),
        ],
        # midm's own, which is why every reply says `vary: Origin`.
        middleware=[
            Middleware(
                CORSMiddleware,
                allow_origins=["*"],
                allow_methods=["*"],
                allow_headers=["*"],
                allow_credentials=True,
            )
        ],
        exception_handlers={
            HTTPException: _http_error,
            Refused: _refused,
            ClientDisconnect: _nobody_listens,
        },
    )


@dataclass(frozen=True)
class _WhileClientStays:
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


class _Model:
    def __init__(self, settings: SimulatorSettings, clock: Clock) -> None:
        self._settings = settings
        self._every_call = settings.every_call()
        self._clock = clock
        self._frozen_until = 0.0

    async def health(self, request: Request) -> ASGIApp:
        async def answer(send: Send) -> None:
            await self._until(self._clock.now() + self._settings.slow_health_ms / 1000)
            await _send_json(wire.HEALTH, request, send)

        return _WhileClientStays(answer)

    async def chat(self, request: Request) -> ASGIApp:
        chat, faults = await self._asked(request)
        complaint = impossible(chat) or fatal(chat)
        if complaint is not None:
            raise Refused(500, complaint)
        plan = self._plan(chat, faults)

        async def answer(send: Send) -> None:
            await self._until(self._clock.now() + (faults.delay_ms + plan.duration_ms()) / 1000)
            await _send_whole(plan, chat.messages, request, send)

        return _WhileClientStays(answer if faults.status is None else self._failing(faults, request))

    async def chat_stream(self, request: Request) -> ASGIApp:
        chat, faults = await self._asked(request)
        if faults.status is not None:
            return _WhileClientStays(self._failing(faults, request))
        complaint = impossible(chat)
        if complaint is not None:
            return _sse(wire.error_event(complaint))
        freezes = fatal(chat) is not None
        plan = frozen_plan(faults) if freezes else self._plan(chat, faults)

        async def answer(send: Send) -> None:
            await self._until(self._clock.now() + faults.delay_ms / 1000)
            await self._say(plan, request, send, freezes)

        return _WhileClientStays(answer)
