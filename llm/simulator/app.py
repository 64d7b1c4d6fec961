"""midm's three calls as a Starlette app, and beside them those of an OpenAI-compatible engine."""

from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Send

from llm.simulator import wire
from llm.simulator.engine import Engine
from llm.simulator.faults import Faults
from llm.simulator.plan import plan_call
from llm.simulator.request import (
    ChatRequest,
    Refused,
    error,
    fatal,
    impossible,
    parse_chat_request,
)
from llm.simulator.settings import SimulatorSettings
from llm.simulator.stage import (
    Clock,
    Stage,
    WallClock,
    WhileClientStays,
    end_stream,
    page,
    phrase_of,
    send_json,
    send_whole,
)


def create_simulator(settings: SimulatorSettings, *, clock: Clock | None = None) -> Starlette:
    """An ASGI app that answers as midm does, and under `/v1` as OpenAI-compatible engines do.

    A call whose client leaves is given up at once. Cutting connections needs the server of
    `llm.simulator.server`, everything else runs on any; it runs on asyncio.
    """
    stage = Stage(settings, clock or WallClock())
    model, engine = _Model(stage), Engine(stage)
    return Starlette(
        routes=[
            Route("/chat", model.chat, methods=["POST"]),
            Route("/chat/stream", model.chat_stream, methods=["POST"]),
            Route("/health", model.health, methods=["GET"]),
            Route("/v1/chat/completions", engine.completions, methods=["POST"]),
            Route("/v1/models", engine.models, methods=["GET"]),
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


class _Model:
    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._settings = stage.settings

    async def health(self, request: Request) -> ASGIApp:
        async def answer(send: Send) -> None:
            await self._stage.wait(self._settings.slow_health_ms)
            await send_json(200, wire.json_body(wire.HEALTH), request, send)

        return WhileClientStays(answer)

    async def chat(self, request: Request) -> ASGIApp:
        chat, faults = await self._asked(request)
        if faults.status is not None:
            return self._failing(faults.status, faults, request)
        complaint = impossible(chat) or fatal(chat)
        if complaint is not None:
            raise Refused(500, complaint)
        plan = plan_call(chat, script=self._settings.script, faults=faults)

        async def answer(send: Send) -> None:
            await self._stage.wait(faults.delay_ms + plan.duration_ms())
            failed = wire.json_body({"detail": plan.faults.message})
            await send_whole(plan, plan.whole(chat.messages), failed, request, send)

        return WhileClientStays(answer)

    async def chat_stream(self, request: Request) -> ASGIApp:
        chat, faults = await self._asked(request)
        if faults.status is not None:
            return self._failing(faults.status, faults, request)
        plan = plan_call(chat, script=self._settings.script, faults=faults)

        async def answer(send: Send) -> None:
            await self._stage.wait(faults.delay_ms)
            first = [wire.START] if plan.starts else []
            await self._stage.play(plan, first, plan.writes(), send)
            await end_stream(plan, request, send)

        return WhileClientStays(answer)

    async def _asked(self, request: Request) -> tuple[ChatRequest, Faults]:
        body = await request.body()
        chat = parse_chat_request(body, content_type=request.headers.get("content-type", ""))
        return chat, self._stage.faults_of(chat)

    def _failing(self, status: int, faults: Faults, request: Request) -> ASGIApp:
        async def answer(send: Send) -> None:
            await self._stage.wait(faults.delay_ms)
            response = _failure(status, faults.message)
            await response(request.scope, request.receive, send)

        return WhileClientStays(answer)


def _failure(status: int, message: str) -> Response:
    if status in (502, 503, 504):
        return page(status, message)
    said = message or phrase_of(status)
    detail: str | list[dict[str, Any]] = said
    if status == 422:
        detail = [error("simulated", ["body"], said, None)]
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
