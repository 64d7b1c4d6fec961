"""The REST calls: parse, call one function, render."""

from contextlib import aclosing
from importlib.metadata import version
from typing import Literal, TypeVar
from uuid import uuid4

from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway import sse
from gateway.ask import Ask
from gateway.conversation import follow
from gateway.errors import as_refusal
from gateway.greeting import greet
from gateway.house import House, house_of
from gateway.problems import problem_response
from protocol import rest
from protocol.cursor import END, Cursor
from protocol.errors import ErrorCode, Refusal
from protocol.invalid import parse_json, refusal
from protocol.server_frames import Error, Frame
from storage import log as stored_log
from storage import messages, sessions
from storage.times import utc_now

M = TypeVar("M", bound=BaseModel)

MAX_PAGE_BYTES = 8 * 1024 * 1024
VERSION = version("midm-chat-gateway")
ENDPOINTS = {
    "websocket": "GET /ws",
    "sessions": {
        "create": "POST /api/sessions",
        "get": "GET /api/sessions/{session_id}",
        "delete": "DELETE /api/sessions/{session_id}",
        "messages": "GET /api/sessions/{session_id}/messages",
        "events": "GET /api/sessions/{session_id}/events",
        "cancel": "POST /api/sessions/{session_id}/cancel",
    },
    "chat": {"completion": "POST /api/chat", "stream": "POST /api/chat/stream"},
    "health": "GET /api/health",
    "readiness": "GET /readyz",
}


async def index(request: Request) -> Response:
    """Say what this is and where things are."""
    about = {"service": "midm-chat-gateway", "version": VERSION, "status": "running"}
    return JSONResponse(about | {"endpoints": ENDPOINTS})


async def create_session(request: Request) -> Response:
    """Begin a session."""
    body = await _body(request, rest.CreateSession)
    session = sessions.create(str(uuid4()), dict(body.metadata or {}))
    return _json(await house_of(request).database.write(session), 201)


async def session(request: Request) -> Response:
    """Tell of a session, or delete it."""
    # One route for both: the router answers any other method with an Allow that names them all.
    return await (delete_session if request.method == "DELETE" else get_session)(request)


async def get_session(request: Request) -> Response:
    """Tell of a session."""
    session_id = _session_id(request)
    house = house_of(request)
    house.database.submit(sessions.note_use(session_id))
    return _json(await house.database.read(sessions.get(session_id)))


async def delete_session(request: Request) -> Response:
    """Delete a session and all it holds."""
    await house_of(request).turns.delete_session(_session_id(request))
    return Response(status_code=204)


async def get_messages(request: Request) -> Response:
    """Show a page of the history."""
    query = _validated(rest.HistoryQuery, dict(request.query_params))
    session_id = _session_id(request)
    house = house_of(request)
    house.database.submit(sessions.note_use(session_id))
    page = await house.database.read(
        messages.page(
            session_id,
            limit=query.limit,
            before=query.before,
            max_bytes=MAX_PAGE_BYTES,
            include_replaced=query.include == "replaced",
        )
    )
    return _json(
        rest.Messages(
            session_id=session_id,
            messages=page.messages,
            total_count=page.total_count,
            next_before=page.next_before,
            cursor=None if query.before else str(page.cursor),
        )
    )


async def chat(request: Request) -> Response:
    """Ask a question and wait for the whole reply."""
    body = await _body(request, rest.ChatRequest)
    house = house_of(request)
    accepted = await house.turns.accept(Ask.chat(body.session_id, body, streamed=False))
    ending = await _ending(house, body.session_id, accepted.turn)
    if ending.type == "error":
        error = Error.model_validate_json(ending.text)
        said = Refusal(error.code, error.message, retry_after_ms=error.retry_after_ms)
        return problem_response(said, turn=error.turn, message_id=error.message_id)
    reply = await house.database.read(messages.reply(body.session_id, accepted.turn))
    if reply is None:
        # Deleted in the moment after its end.
        raise Refusal(ErrorCode.SESSION_NOT_FOUND)
    return _json(rest.ChatReply.model_validate(vars(reply)))


async def chat_stream(request: Request) -> Response:
    """Ask a question and stream the reply."""
    body = await _body(request, rest.ChatRequest)
    house = house_of(request)
    accepted = await house.turns.accept(Ask.chat(body.session_id, body))
    return sse.EventStream(sse.turn_events(house, body.session_id, accepted.turn))


async def get_events(request: Request) -> Response:
    """Stream a session's log from a cursor on."""
    session_id = _session_id(request)
    house = house_of(request)
    after = request.headers.get("last-event-id") or request.query_params.get("after")
    house.database.submit(sessions.note_use(session_id))
    joined = await house.database.read(stored_log.join(session_id, after))
    ready = greet(house, session_id, joined, created=False)
    if request.method == "HEAD":
        # The stream never ends: nobody would see it, and it would keep the connection.
        return Response(headers=sse.HEADERS, media_type="text/event-stream")
    return sse.EventStream(sse.session_events(house, session_id, ready))


async def cancel(request: Request) -> Response:
    """Stop the open turn."""
    body = await _body(request, rest.CancelRequest)
    session_id = _session_id(request)
    house = house_of(request)
    await house.database.read(sessions.get(session_id))
    return _json(rest.Cancelled(turn=await house.turns.cancel(session_id, body.turn)), 202)


async def health(request: Request) -> Response:
    """Tell what works; 200 even where something does not."""
    house = house_of(request)
    model = await house.probe.model()
    database_connected = await house.probe.database()
    broker_connected = house.broker.ready and house.admission.ready
    well = model.available and database_connected and broker_connected
    return _json(
        rest.Health(
            status="healthy" if well else "degraded",
            timestamp=utc_now(),
            llm_server_available=model.available,
            database_connected=database_connected,
            broker_connected=broker_connected,
            llm_server_busy=model.busy,
            simulated=house.settings.simulated,
            node=house.node,
            database="postgresql" if house.settings.shared else "sqlite",
            broker="redis" if house.settings.shared else "memory",
            connections=len(house.connections),
            running_turns=house.turns.running,
            queued_turns=house.admission.waiting,
            version=VERSION,
        )
    )


async def readiness(request: Request) -> Response:
    """Tell whether new work is welcome here: 200 or 503, for whoever spreads it over nodes."""
    house = house_of(request)
    works: dict[Literal["broker", "database", "draining"], bool] = {
        "broker": house.broker.ready and house.admission.ready,
        "database": await house.probe.database(),
        "draining": not house.turns.draining,
    }
    missing = [name for name, well in works.items() if not well]
    return _json(rest.Readiness(ready=not missing, missing=missing), 503 if missing else 200)


async def _ending(house: House, session_id: str, turn: int) -> Frame:
    """Wait until a turn is over, or cannot be ended now."""
    frames = follow(
        session_id,
        Cursor(turn - 1, 0, END),
        broker=house.broker,
        database=house.database,
        silence_s=sse.KEEP_ALIVE_S,
    )
    async with aclosing(frames):
        async for frame in frames:
            if frame is not None and frame.type in ("complete", "error"):
                return frame
    raise as_refusal(RuntimeError("a log ended"))


def _session_id(request: Request) -> str:
    session_id: str = request.path_params["session_id"]
    return session_id


async def _body(request: Request, model: type[M]) -> M:
    """Read and validate a body; an empty one, or null, is an empty object."""
    limit = house_of(request).settings.max_body_bytes
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise HTTPException(413, f"The body is larger than {limit} bytes.")
        parts.append(part)
    data = b"".join(parts)
    return _validated(model, parse_json(data) if data.strip() else None)


def _validated(model: type[M], given: object) -> M:
    try:
        return model.model_validate({} if given is None else given)
    except ValidationError as error:
        raise refusal(error) from None


def _json(body: BaseModel, status: int = 200) -> Response:
    return Response(body.model_dump_json(), status, media_type="application/json")
