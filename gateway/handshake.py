"""The first moments of a WebSocket: whether it may open at all, and who has it."""

import asyncio
import logging
import math

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway.auth.credentials import SUBPROTOCOL as CREDENTIAL
from gateway.auth.credentials import Bearer, Ticket, bearer
from gateway.auth.principal import Principal
from gateway.caller import Caller
from gateway.entrance import Entrance, NoRoom
from gateway.errors import as_refusal
from gateway.figures import Figures
from gateway.house import House
from gateway.limits.occupancy import Seat
from gateway.problems import problem_response
from gateway.sender import close_code
from gateway.settings import Settings
from gateway.sockets import socket_of
from protocol.client_frames import Auth, parse_client_frame
from protocol.errors import ErrorCode, Refusal
from protocol.server_frames import PROTOCOL, Error

log = logging.getLogger(__name__)


async def admit(socket: WebSocket, house: House) -> tuple[Caller, Seat] | None:
    """Let a WebSocket in and learn who has it, or refuse it, or tell it why not and close it.

    Whoever calls has the seat to leave. Raises `WebSocketDisconnect` if the client goes away.
    """
    # Not the socket itself, which would keep for its life what it was asked for: a browser's
    # headers weigh a good part of an idle connection.
    visitor = HTTPConnection(socket.scope)
    address = house.entrance.address(visitor)
    refused = await _denial(visitor, house.entrance, address)
    if refused is None:
        seat = await _seat(socket, visitor, house.entrance, address=address)
        return await _greet(socket, visitor, house, seat=seat, address=address) if seat else None
    log.warning("refused a WebSocket: %d, %s", refused.status_code, address or "this machine")
    await socket.send_denial_response(refused)
    return None


async def turn_away(socket: WebSocket, refusal: Refusal, figures: Figures) -> None:
    """Say why a WebSocket is of no use, and close it."""
    figures.refusals[refusal.code] += 1
    await socket.send_text(Error.of(refusal).frame().text)
    await socket.close(close_code(refusal))


async def _denial(
    visitor: HTTPConnection, entrance: Entrance, address: str | None
) -> Response | None:
    """Say how a handshake is refused outright; None if it is not."""
    if not entrance.admits(visitor):
        return PlainTextResponse("Origin or Host not allowed", 403)
    wait_s = await entrance.shake_hands(address)
    if wait_s > 0:
        late = Refusal(ErrorCode.RATE_LIMITED, retry_after_ms=math.ceil(wait_s * 1000))
        entrance.figures.refusals[late.code] += 1
        return problem_response(late)
    return None


async def _seat(
    socket: WebSocket, visitor: HTTPConnection, entrance: Entrance, *, address: str | None
) -> Seat | None:
    """Find a seat; None if there is none, which was said."""
    try:
        unknown = entrance.has_yet_to_ask(visitor, _ticket(visitor))
        return entrance.take_seat(address, unknown=unknown)
    except NoRoom as full:
        if full.whose:
            # A browser is told why only once it is open.
            await _accept(socket)
            await turn_away(socket, full, entrance.figures)
        else:
            entrance.figures.refusals[full.code] += 1
            await socket.send_denial_response(problem_response(full))
        return None


async def _greet(
    socket: WebSocket, visitor: HTTPConnection, house: House, *, seat: Seat, address: str | None
) -> tuple[Caller, Seat] | None:
    """Accept a WebSocket and learn who has it; its seat is left unless that is returned."""
    try:
        await _accept(socket)
        caller = await _known(socket, visitor, house, seat=seat, address=address)
    except BaseException:
        seat.leave()
        raise
    if caller is None:
        seat.leave()
        return None
    return caller, seat


async def _known(
    socket: WebSocket, visitor: HTTPConnection, house: House, *, seat: Seat, address: str | None
) -> Caller | None:
    try:
        caller = Caller(await _introduced(socket, visitor, house), address)
        house.entrance.know(seat, caller)
    except WebSocketDisconnect:
        raise
    except Exception as error:  # whatever it is, the client is told and the socket closed
        await turn_away(socket, as_refusal(error), house.figures)
        return None
    return caller


async def _accept(socket: WebSocket) -> None:
    await socket.accept(subprotocol=_subprotocol(socket.scope["subprotocols"]))


def _subprotocol(offered: list[str]) -> str | None:
    """Answer with one that was offered, never with one that carries a token."""
    if PROTOCOL in offered:
        return PROTOCOL
    return next((name for name in offered if not name.lower().startswith(CREDENTIAL)), None)


def _ticket(visitor: HTTPConnection) -> str | None:
    return visitor.query_params.get("ticket")


async def _introduced(socket: WebSocket, visitor: HTTPConnection, house: House) -> Principal:
    """Learn who has a WebSocket that was accepted: from its first frame, if not before."""
    authenticator = house.entrance.authenticator
    found = house.entrance.found(visitor, _ticket(visitor))
    socket.scope["headers"] = []
    if found is None and authenticator.required:
        found = await _first_frame(socket, house.settings)
    return await house.entrance.prove(found)


async def _first_frame(socket: WebSocket, settings: Settings) -> Bearer | Ticket:
    line = socket_of(socket.scope)
    if line is not None:
        line.limit_message(settings.max_unauthenticated_frame_bytes)
    try:
        async with asyncio.timeout(settings.auth_timeout_s):
            message = await socket.receive()
    except TimeoutError:
        within = f"{settings.auth_timeout_s:g} seconds"
        raise Refusal(ErrorCode.UNAUTHORIZED, f"No auth frame came within {within}.") from None
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    if line is not None:
        line.limit_message(settings.max_frame_bytes)
    return bearer(_token(message.get("text") or ""))


def _token(text: str) -> str:
    try:
        frame = parse_client_frame(text)
    except Refusal:
        frame = None
    if not isinstance(frame, Auth):
        raise Refusal(ErrorCode.UNAUTHORIZED, "The first frame has to be auth, with a token.")
    return frame.token
