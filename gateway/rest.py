"""The REST calls: parse, call one function, render."""

import json
from contextlib import aclosing
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response

from gateway import export, sse
from gateway.ask import Ask
from gateway.auth.tickets import TICKET_S
from gateway.beginning import begin_session
from gateway.caller import Caller
from gateway.conversation import follow
from gateway.errors import as_refusal
from gateway.figures import Figures
from gateway.greeting import greet
from gateway.house import House, house_of
from gateway.problems import problem_response
from gateway.replies import json_response, read_body, validated
from gateway.search import search
from protocol import rest
from protocol.cursor import END, Cursor
from protocol.errors import ErrorCode, Refusal
from protocol.server_frames import Error, Frame
from storage import log as stored_log
from storage import messages, sessions, stretches
from storage.claims import Claim
from storage.matching import Words

MAX_PAGE_BYTES = 2 * 1024 * 1024


# Of two methods on one path one function: the router answers any other method with an Allow that
# names both.


async def all_sessions(request: Request, caller: Caller) -> Response:
    """List the caller's sessions, or begin one."""
    return await (create_session if request.method == "POST" else list_sessions)(request, caller)


async def session(request: Request, caller: Caller) -> Response:
    """Tell of a session, or delete it."""
    return await (delete_session if request.method == "DELETE" else get_session)(request, caller)


async def create_session(request: Request, caller: Caller) -> Response:
    """Begin a session."""
    body = await read_body(request, rest.CreateSession)
    house = house_of(request)
    metadata: dict[str, object] = {**(body.metadata or {})}
    check_metadata(metadata, most=house.settings.max_metadata_bytes)
    begun = begin_session(house, caller, str(uuid4()), metadata=metadata)
    return json_response(await begun, 201)


async def list_sessions(request: Request, caller: Caller) -> Response:
    """List the caller's sessions, the newest first."""
    query = validated(rest.SessionsQuery, dict(request.query_params))
    house = house_of(request)
    if caller.principal.anonymous and not (house.settings.is_private and is_from_here(request)):
        # All anonymous callers share one name: only by its id is a session one's own.
        raise Refusal(ErrorCode.UNAUTHORIZED, "Only who has a name can list sessions.")
    owner = caller.principal.owner
    listed = sessions.owned(owner, limit=query.limit, before=query.before)
    return json_response(await house.database.read(listed))


async def get_session(request: Request, caller: Caller) -> Response:
    """Tell of a session."""
    claim = _claim(request, caller)
    house = house_of(request)
    house.database.submit(sessions.note_use(claim))
    return json_response(await house.database.read(sessions.get(claim)))


async def delete_session(request: Request, caller: Caller) -> Response:
    """Delete a session and all it holds."""
    await house_of(request).turns.delete_session(_claim(request, caller))
    return Response(status_code=204)


async def get_messages(request: Request, caller: Caller) -> Response:
    """Show a page of the history, or of what is found in it."""
    query = validated(rest.HistoryQuery, dict(request.query_params))
    claim = _claim(request, caller)
    house = house_of(request)
    house.database.submit(sessions.note_use(claim))
    if query.q is not None:
        found = search(
            house.database,
            claim,
            Words(query.q),
            limit=query.limit,
            before=query.before,
            max_bytes=MAX_PAGE_BYTES,
            one_at_a_time=house.searching,
            include_replaced=query.include == "replaced",
        )
        return json_response(await found)
    page = await house.database.read(
        messages.page(
            claim,
            limit=query.limit,
            before=query.before,
            max_bytes=MAX_PAGE_BYTES,
            include_replaced=query.include == "replaced",
        )
    )
    return json_response(
        rest.Messages(
            session_id=claim.session_id,
            messages=page.messages,
            total_count=page.total_count,
            next_before=page.next_before,
            cursor=None if query.before else str(page.cursor),
        )
    )


async def get_export(request: Request, caller: Caller) -> Response:
    """Write a session out, as a file to be kept."""
    query = validated(rest.ExportQuery, dict(request.query_params))
    claim = _claim(request, caller)
    house = house_of(request)
    house.database.submit(sessions.note_use(claim))
    form = export.form_of(query.format, request.headers.getlist("accept"))
    begun = stretches.begin_export(claim, include_replaced=query.include == "replaced")
    extent = await house.database.read(begun)
    if request.method == "HEAD":
        return export.Export(form, claim.session_id, ())
    return export.Export(form, claim.session_id, export.written(house, caller, claim, extent, form))


async def chat(request: Request, caller: Caller) -> Response:
    """Ask a question and wait for the whole reply."""
    body = await read_body(request, rest.ChatRequest)
    house = house_of(request)
    claim = caller.claim(body.session_id)
    accepted = await house.turns.accept(Ask.chat(caller, body.session_id, body, streamed=False))
    ending = await _ending(house, claim, accepted.turn)
    if ending.type == "error":
        error = Error.model_validate_json(ending.text)
        said = Refusal(error.code, error.message, retry_after_ms=error.retry_after_ms)
        return problem_response(said, turn=error.turn, message_id=error.message_id)
    house.entrance.check_rights(caller)
    reply = await house.database.read(messages.reply(claim, accepted.turn))
    if reply is None:
        # Deleted in the moment after its end.
        raise Refusal(ErrorCode.SESSION_NOT_FOUND)
    return json_response(rest.ChatReply.model_validate(vars(reply)))


async def chat_stream(request: Request, caller: Caller) -> Response:
    """Ask a question and stream the reply."""
    body = await read_body(request, rest.ChatRequest)
    house = house_of(request)
    accepted = await house.turns.accept(Ask.chat(caller, body.session_id, body))
    claim = caller.claim(body.session_id)
    return sse.EventStream(sse.turn_events(house, caller, claim, accepted.turn))


async def get_events(request: Request, caller: Caller) -> Response:
    """Stream a session's log from a cursor on."""
    claim = _claim(request, caller)
    house = house_of(request)
    after = request.headers.get("last-event-id") or request.query_params.get("after")
    house.database.submit(sessions.note_use(claim))
    joined = await house.database.read(stored_log.join(claim, after))
    if request.method == "HEAD":
        # The stream never ends: nobody would see it, and it would keep the connection.
        return Response(headers=sse.HEADERS, media_type="text/event-stream")
    if after is not None:
        house.figures.resumes[joined.resumed] += 1
    ready = greet(house, claim.session_id, joined, created=False)
    return sse.EventStream(sse.session_events(house, caller, ready))


async def cancel(request: Request, caller: Caller) -> Response:
    """Stop the open turn."""
    body = await read_body(request, rest.CancelRequest)
    claim = _claim(request, caller)
    house = house_of(request)
    await house.database.read(sessions.require(claim))
    return json_response(rest.Cancelled(turn=await house.turns.cancel(claim, body.turn)), 202)


async def create_ticket(request: Request, caller: Caller) -> Response:
    """Give the caller what opens one connection in its name, once and soon."""
    entrance = house_of(request).entrance
    await entrance.open_ticket(caller)
    ticket = await entrance.authenticator.issue(caller.principal)
    return json_response(rest.TicketReply(ticket=ticket, expires_in_s=TICKET_S), 201)


async def _ending(house: House, claim: Claim, turn: int) -> Frame:
    """Wait until a turn is over, or cannot be ended now."""
    frames = follow(
        claim,
        Cursor(turn - 1, 0, END),
        broker=house.broker,
        database=house.database,
        figures=Figures(),  # it sends nothing of what it reads
        silence_s=sse.KEEP_ALIVE_S,
    )
    async with aclosing(frames):
        async for frame in frames:
            if frame is not None and frame.type in ("complete", "error"):
                return frame
    raise as_refusal(RuntimeError("a log ended"))


def check_metadata(metadata: dict[str, object], *, most: int) -> None:
    """Let metadata of so many bytes of JSON pass; raises `Refusal` (`bad_frame`)."""
    size = len(json.dumps(metadata, ensure_ascii=False).encode())
    if size > most:
        text = f"metadata: at most {most} bytes of JSON are allowed, given {size}"
        raise Refusal(ErrorCode.BAD_FRAME, text)


def is_from_here(request: Request) -> bool:
    """Whether a request comes from this machine, as far as it tells, and through no proxy."""
    forwarded = {"x-forwarded-for", "x-real-ip", "forwarded", "via"} & set(request.headers)
    return house_of(request).entrance.address(request) is None and not forwarded


def _claim(request: Request, caller: Caller) -> Claim:
    return caller.claim(request.path_params["session_id"])
