"""The first moments of a WebSocket: whether it may open at all, and who has it."""

import asyncio
import math

from starlette.responses import PlainTextResponse, Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway.auth.credentials import SUBPROTOCOL as CREDENTIAL
from gateway.auth.credentials import Bearer, Ticket, bearer
from gateway.auth.principal import Principal
from gateway.entrance import Entrance
from gateway.problems import problem_response
from gateway.settings import Settings
from gateway.sockets import socket_of
from protocol.client_frames import Auth, parse_client_frame
from protocol.errors import ErrorCode, Refusal
from protocol.server_frames import PROTOCOL


async def denial(socket: WebSocket, entrance: Entrance, address: str | None) -> Response | None:
    """Say how a handshake is refused outright; None if it is not."""
    if not entrance.admits(socket):
        return PlainTextResponse("Origin or Host not allowed", 403)
    wait_s = await entrance.shake_hands(address)
    if wait_s > 0:
        late = Refusal(ErrorCode.RATE_LIMITED, retry_after_ms=math.ceil(wait_s * 1000))
        return problem_response(late)
    return None


def subprotocol(offered: list[str]) -> str | None:
    """Answer with one that was offered, never with one that carries a token."""
    if PROTOCOL in offered:
        return PROTOCOL
    return next((name for name in offered if not name.lower().startswith(CREDENTIAL)), None)


async def introduce(socket: WebSocket, entrance: Entrance, settings: Settings) -> Principal:
    """Learn who has a WebSocket that was accepted: from its first frame, if not before.

    Raises `Refusal` (`unauthorized` and others) and `WebSocketDisconnect`.
    """
    found = entrance.found(socket, socket.query_params.get("ticket"))
    # Nobody asks for them again, and a browser's weigh a good part of an idle connection.
    socket.scope["headers"] = []
    if found is None and entrance.authenticator.required:
        found = await _first_frame(socket, settings)
    return await entrance.authenticator.identify(found)


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
