"""The calls of an OpenAI-compatible engine, over the same simulated model and with its faults."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Send

from llm.simulator import engine_wire as wire
from llm.simulator.engine_request import Asked, parse_completion_request
from llm.simulator.faults import Faults
from llm.simulator.plan import plan_reply
from llm.simulator.request import Refused, fatal, impossible
from llm.simulator.stage import (
    Stage,
    WhileClientStays,
    end_stream,
    page,
    phrase_of,
    send_json,
    send_whole,
)


class Engine:
    """Answers `/v1/chat/completions` and `/v1/models`; its usage is made up."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    async def models(self, request: Request) -> ASGIApp:
        """List the one model that there is."""

        async def answer(send: Send) -> None:
            await self._stage.wait(self._stage.settings.slow_health_ms)
            await send_json(200, wire.MODELS, request, send)

        return WhileClientStays(answer)

    async def completions(self, request: Request) -> ASGIApp:
        """Reply, streamed or whole, or fail as the question wants it."""
        try:
            asked = parse_completion_request(await request.body())
            if (complaint := impossible(asked.chat) or fatal(asked.chat)) is not None:
                raise Refused(400, complaint)
            faults = self._stage.faults_of(asked.chat)
        except Refused as refused:
            return _failure(refused.status, _words(refused.detail))
        if faults.status is not None:
            return self._failing(faults.status, faults, request)
        return self._replying(asked, faults, request)

    def _replying(self, asked: Asked, faults: Faults, request: Request) -> ASGIApp:
        said, limit = self._stage.settings.script(asked.chat.messages), asked.chat.token_limit()
        plan = plan_reply(said, limit=limit, faults=faults)
        usage = plan.usage(asked.chat.messages)
        reason = "stop" if plan.by_itself else "length"

        async def stream(send: Send) -> None:
            await self._stage.wait(faults.delay_ms)
            told = usage if asked.usage else None
            last = wire.last_events(plan.ending, reason, usage=told, message=faults.message)
            writes = plan.timed(wire.chunk_events(plan.pieces), last)
            await self._stage.play(plan, [wire.FIRST], writes, send)
            await end_stream(plan, request, send)

        async def whole(send: Send) -> None:
            await self._stage.wait(faults.delay_ms + plan.duration_ms())
            body = wire.completion("".join(plan.pieces), reason, usage)
            await send_whole(plan, body, wire.error(500, faults.message), request, send)

        return WhileClientStays(stream if asked.stream else whole)

    def _failing(self, status: int, faults: Faults, request: Request) -> ASGIApp:
        async def answer(send: Send) -> None:
            await self._stage.wait(faults.delay_ms)
            await _failure(status, faults.message)(request.scope, request.receive, send)

        return WhileClientStays(answer)


def _words(detail: str | list[dict[str, Any]]) -> str:
    return detail if isinstance(detail, str) else "; ".join(each["msg"] for each in detail)


def _failure(status: int, message: str) -> Response:
    if status in (502, 503, 504):
        return page(status, message)
    body = wire.error(status, message or phrase_of(status))
    return Response(body, status, media_type="application/json")
