"""The sending half of a WebSocket: answers and the log, in order, as fast as the client reads."""

import asyncio
import logging
from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway.conversation import Reader
from gateway.errand import Errand
from gateway.errors import as_refusal
from gateway.figures import Sent
from gateway.sockets import socket_of
from gateway.transports import BoundedTransport
from gateway.waiting import in_company
from protocol.errors import CloseCode, ErrorCode, Refusal
from protocol.server_frames import Error, Frame, ServerFrame, ServerPing

log = logging.getLogger(__name__)

MAX_OUTBOX_FRAMES = 64
_PING = ServerPing().frame()


class Sender:
    """Sends one client what it is told and what is new in the log.

    A client that keeps up gets a frame in the very step that brings it: waking a task for every
    token of every connection would cost more than all the rest. Where that has to wait, for the
    socket or for storage, a task sends instead until there is nothing left; what the client has
    not read meanwhile is not kept here but read from the log, merged, when it can be sent.
    """

    __slots__ = (
        *("_socket", "_line", "_peer", "_loop", "_reader", "_outbox", "_task", "_sending", "_rung"),
        *("_closing", "_room", "_heartbeat", "_heartbeat_s", "_last_sent", "_sent"),
    )

    def __init__(self, socket: WebSocket, *, heartbeat_s: float, sent: Sent) -> None:
        self._socket = socket
        self._sent = sent
        self._heartbeat_s = heartbeat_s
        self._line = socket_of(socket.scope)
        self._peer = self._line.peer if self._line else None
        self._loop = asyncio.get_running_loop()
        # A list, for it is short, and an empty deque weighs 0.6 KB.
        self._outbox: list[Frame] = []
        self._task = Errand()
        self._closing: CloseCode | None = None
        self._room: asyncio.Event | None = None
        # From now on until `begin`, as while a task is sending, nothing is sent at once.
        self._sending = True
        self._rung = False
        self._last_sent = 0.0

    def begin(self, reader: Reader) -> None:
        """Send from now on until `end`."""
        self._reader = reader
        self._sending = False
        self._last_sent = self._loop.time()
        self._beat_in(self._heartbeat_s)
        self.ring()

    async def end(self) -> None:
        """Send nothing more."""
        self._sending = True
        self._heartbeat.cancel()
        await self._task.cancel()

    def say(self, frame: ServerFrame) -> None:
        """Send a frame as soon as the socket takes it."""
        self._put(frame.frame())

    def close(self, code: CloseCode) -> None:
        """Send the answers that are due, then close the socket."""
        self._closing = self._closing or code
        self._peer = None  # nothing is sent at once any more: a task sees to the rest
        self.ring()

    @property
    def closing(self) -> bool:
        """Whether the socket is about to be closed from this side."""
        return self._closing is not None

    async def room(self) -> None:
        """Wait while the client does not read the answers it asked for."""
        while len(self._outbox) >= MAX_OUTBOX_FRAMES:
            self._room = asyncio.Event()
            await self._room.wait()

    def ring(self) -> None:
        """Send what there is to send."""
        if self._sending:
            self._rung = True
        elif not self._send_newest() and not self._send_at_once():
            self._sending = True
            self._task.begin(self._send_all())

    def _put(self, frame: Frame) -> None:
        self._outbox.append(frame)
        self.ring()

    def _beat(self) -> None:
        silent_s = self._loop.time() - self._last_sent
        if silent_s >= self._heartbeat_s and not self._sending:
            self._put(_PING)
            if self._line is not None:
                self._line.ping_along()
            silent_s = 0.0
        self._beat_in(max(self._heartbeat_s - silent_s, self._heartbeat_s / 10))

    def _beat_in(self, seconds: float) -> None:
        self._heartbeat = self._loop.call_later(in_company(self._loop, seconds), self._beat)

    # In the step that brings it

    def _send_newest(self) -> bool:
        """Send the piece that was just appended; False if that is not all there is to do.

        Nearly always it is: each client that keeps up comes here once for every token.
        """
        if self._outbox or self._peer is None or not self._peer.takes_more:
            return False
        frame = self._reader.read_newest()
        return frame is not None and self._write(self._peer, frame)

    def _send_at_once(self) -> bool:
        """Send all there is; False if a task is to go on: it has to wait, or something is wrong."""
        if self._peer is None or self._closing is not None:
            return False
        try:
            return self._send_outbox(self._peer) and self._send_log(self._peer)
        except Exception:  # nothing can follow in this log, or worse: whoever rang is not to blame
            return False  # the task finds the same, says so, and closes this one socket

    def _send_outbox(self, peer: BoundedTransport) -> bool:
        while self._outbox:
            if not peer.takes_more or not self._write(peer, self._outbox.pop(0)):
                return False
        return True

    def _send_log(self, peer: BoundedTransport) -> bool:
        while peer.takes_more:
            frames = self._reader.read_live()
            if not frames:
                return frames is not None
            if not all(self._write(peer, frame) for frame in frames):
                return False
        return False

    def _write(self, peer: BoundedTransport, frame: Frame) -> bool:
        message = frame.message
        try:
            peer.write(message)
        except Exception:  # whatever it is, it is no fault of the one who rang
            log.exception("a WebSocket could not be written to")
            self._closing = CloseCode.INTERNAL
            return False
        self._last_sent = self._loop.time()
        # Not a call: each client that keeps up comes here once for every token.
        self._sent.frames += 1
        self._sent.size += len(message)
        return True

    # In a task

    async def _send_all(self) -> None:
        """Send until there is nothing left, or the socket is closed."""
        with suppress(WebSocketDisconnect):  # it may go away before it is closed, too
            code = await self._send_on()
            if code is not None:
                await self._socket.close(code)

    async def _send_on(self) -> CloseCode | None:
        """Send what there is; return the reason to close the socket, if there is one."""
        try:
            while self._closing is None:
                self._rung = False
                if not await self._send_new() and not self._rung:
                    self._sending = False
                    return None
            await self._send_answers()
            return self._closing
        except WebSocketDisconnect:
            raise
        except Exception as error:  # the log cannot be read any further: say so and close
            return await self._give_up(as_refusal(error))

    async def _send_new(self) -> bool:
        answered = await self._send_answers()
        frames = await self._reader.read()
        # An `accepted` said meanwhile belongs before the `start` that may be among the frames.
        answered = await self._send_answers() or answered
        for frame in frames:
            await self._send(frame)
        return answered or bool(frames)

    async def _send_answers(self) -> bool:
        """Send the answers that are due; those given meanwhile may tell of frames still to come."""
        due = len(self._outbox)
        for _ in range(due):
            await self._send(self._outbox.pop(0))
            if self._room is not None:
                self._room.set()
        return bool(due)

    async def _send(self, frame: Frame) -> None:
        await self._socket.send_text(frame.text)
        self._last_sent = self._loop.time()
        self._sent.frames += 1
        self._sent.size += len(frame.message)

    async def _give_up(self, refusal: Refusal) -> CloseCode:
        code = close_code(refusal)
        if code in (CloseCode.TRY_LATER, CloseCode.INTERNAL):
            await self._send(Error.of(refusal).frame())
        return code


def close_code(refusal: Refusal) -> CloseCode:
    """Say by the close code what a connection that cannot go on is to do next."""
    match refusal.code:
        case ErrorCode.UNAUTHORIZED:
            return CloseCode.UNAUTHORIZED
        case ErrorCode.SESSION_NOT_FOUND:
            return CloseCode.SESSION_GONE
        case ErrorCode.RATE_LIMITED:
            # Where it is not time that helps, to come back would not either.
            helps = refusal.retry_after_ms is not None
            return CloseCode.RATE_LIMITED if helps else CloseCode.TOO_MANY_CONNECTIONS
        case ErrorCode.SHUTTING_DOWN:
            return CloseCode.RESTART
        case ErrorCode.INTERNAL:
            return CloseCode.INTERNAL
        case _:
            return CloseCode.TRY_LATER
