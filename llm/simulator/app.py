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
from llm.simulator.plan import Ending, Plan, plan_call
from llm.simulator.request import (
    ChatRequest,
    Refused,
    error,
    fatal,
    impossible,
    parse_chat_request,
)
from llm.simulator.settings import SimulatorSettings

HANG_UP = "llm.simulator.hang_up"
"""The ASGI extension by which `server` lends its connection: `{"close": callable}`."""


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
            await self._wait(self._settings.slow_health_ms)
            await _send_json(200, wire.json_body(wire.HEALTH), request, send)

        return _WhileClientStays(answer)

    async def chat(self, request: Request) -> ASGIApp:
        chat, faults = await self._asked(request)
        if faults.status is not None:
            return self._failing(faults.status, faults, request)
        complaint = impossible(chat) or fatal(chat)
        if complaint is not None:
            raise Refused(500, complaint)
        plan = plan_call(chat, script=self._settings.script, faults=faults)

        async def answer(send: Send) -> None:
            await self._wait(faults.delay_ms + plan.duration_ms())
            await _send_whole(plan, plan.whole(chat.messages), request, send)

        return _WhileClientStays(answer)

    async def chat_stream(self, request: Request) -> ASGIApp:
        chat, faults = await self._asked(request)
        if faults.status is not None:
            return self._failing(faults.status, faults, request)
        plan = plan_call(chat, script=self._settings.script, faults=faults)

        async def answer(send: Send) -> None:
            await self._wait(faults.delay_ms)
            await self._say(plan, send)
            if plan.ending is Ending.STALL:
                await anyio.sleep_forever()
            if plan.ending is Ending.CUT:
                await _hang_up(request)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        return _WhileClientStays(answer)

    async def _asked(self, request: Request) -> tuple[ChatRequest, Faults]:
        body = await request.body()
        chat = parse_chat_request(body, content_type=request.headers.get("content-type", ""))
        return chat, _directed(chat, self._every_call)

    async def _say(self, plan: Plan, send: Send) -> None:
        headers = list(wire.STREAM_HEADERS)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if plan.starts:
            await send({"type": "http.response.body", "body": wire.START, "more_body": True})
        started = self._clock.now()
        if plan.freezes:
            self._frozen_until = started + self._settings.freeze_ms / 1000
        for due_s, event in plan.writes():
            await self._until(started + due_s)
            await send({"type": "http.response.body", "body": event, "more_body": True})

    def _failing(self, status: int, faults: Faults, request: Request) -> ASGIApp:
        async def answer(send: Send) -> None:
            await self._wait(faults.delay_ms)
            response = _failure(status, faults.message)
            await response(request.scope, request.receive, send)

        return _WhileClientStays(answer)

    async def _wait(self, milliseconds: float) -> None:
        await self._until(self._clock.now() + milliseconds / 1000)

    async def _until(self, due: float) -> None:
        # Against the schedule and not one interval after another: what a wait or a slow reader
        # costs does not add up. It waits at all even when late, or one stream of thousands of
        # pieces would keep all others from being served.
        remaining = max(due, self._frozen_until) - self._clock.now()
        await self._clock.sleep(max(remaining, 0.0))


def _directed(chat: ChatRequest, base: Faults) -> Faults:
    asked = [index for index, message in enumerate(chat.messages) if message.role == "user"]
    if not asked:
        return base
    try:
        return directed(chat.messages[asked[-1]].content, base)
    except BadDirective as bad:
        where: list[str | int] = ["body", "messages", asked[-1], "content"]
        raise Refused(422, [error("value_error", where, f"#sim: {bad}", bad.given)]) from None


async def _send_whole(plan: Plan, body: bytes, request: Request, send: Send) -> None:
    match plan.ending:
        case Ending.COMPLETE:
            await _send_json(200, body, request, send)
        case Ending.ERROR:
            failed = wire.json_body({"detail": plan.faults.message})
            await _send_json(500, failed, request, send)
        case Ending.END:
            await _send_json(200, body[: len(body) // 2], request, send)
        case Ending.CUT:
            response = Response(body, media_type="application/json")
            start = {"type": "http.response.start", "status": 200, "headers": response.raw_headers}
            await send(start)
            half = body[: len(body) // 2]
            await send({"type": "http.response.body", "body": half, "more_body": True})
            await _hang_up(request)
        case Ending.STALL:
            await anyio.sleep_forever()
        case _:
            assert_never(plan.ending)


async def _send_json(status: int, body: bytes, request: Request, send: Send) -> None:
    response = Response(body, status, media_type="application/json")
    await response(request.scope, request.receive, send)


async def _hang_up(request: Request) -> None:
    # uvicorn logs an app that returns in the middle of a response, so this never returns: closing
    # the connection counts as the client's leaving, and that ends the call.
    request.scope["extensions"][HANG_UP]["close"]()
    await anyio.sleep_forever()


def _failure(status: int, message: str) -> Response:
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Unknown"
    if status in (502, 503, 504):  # what stands in front of a model server answers in HTML
        page = f"<html><head><title>{status} {phrase}</title></head><body>{message}</body></html>\n"
        return Response(page, status, media_type="text/html")
    detail: str | list[dict[str, Any]] = message or phrase
    if status == 422:
        detail = [error("simulated", ["body"], message or phrase, None)]
    return Response(wire.json_body({"detail": detail}), status, media_type="application/json")


async def _refused(_: Request, refused: Exception) -> Response:
    assert isinstance(refused, Refused)  # noqa: S101
    body = wire.json_body({"detail": refused.detail})
    return Response(body, refused.status, media_type="application/json")


async def _http_error(_: Request, failed: Exception) -> Response:
    assert isinstance(failed, HTTPException)  # noqa: S101
    body = wire.json_body({"detail": failed.detail})
    return Response(body, failed.status_code, failed.headers, media_type="application/json")


async def _nobody_listens(_: Request, __: Exception) -> Response:
    # Never sent; unanswered, the exception would be logged as a failure of the app.
    return Response(status_code=499)
