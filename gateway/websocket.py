"""One WebSocket: frames in, one function called for each, frames out."""

from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import replace
from uuid import uuid4

from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway.ask import Ask
from gateway.auth.credentials import bearer
from gateway.beginning import begin_session
from gateway.caller import Caller
from gateway.conversation import Reader
from gateway.entrance import lapsed
from gateway.errand import Errand
from gateway.errors import as_refusal
from gateway.greeting import farewell, greet
from gateway.handshake import admit, turn_away
from gateway.house import House, house_of
from gateway.sender import Sender
from protocol.client_frames import (
    HELP,
    Auth,
    Cancel,
    Chat,
    ClientFrame,
    GetHelp,
    GetHistory,
    Ping,
    Regenerate,
    parse_client_frame,
)
from protocol.errors import CloseCode, ErrorCode, Refusal
from protocol.server_frames import Error, Help, History, Pong, ServerFrame
from storage import log as stored_log
from storage import messages, sessions
from storage.claims import Claim
from storage.log import Joined

PATH = "/ws"
MAX_INBOX_FRAMES = 256
MAX_INBOX_CHARS = 1024 * 1024
"""One of these may weigh four bytes."""

MAX_BAD_FRAMES = 10
"""So many invalid frames in a row, and the socket is closed: the peer is not one of ours."""

MAX_HISTORY_BYTES = 512 * 1024 - 4_096


def short_cut(app: Starlette) -> ASGIApp:
    """Lead to the WebSocket past the layers of an application; all else goes through them.

    They do nothing for it, and each is a frame that an open connection would keep.
    """

    def lead(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "websocket" and scope["path"] == PATH:
            scope["app"] = app
            return websocket_endpoint(WebSocket(scope, receive, send))
        return app(scope, receive, send)

    return lead


async def websocket_endpoint(socket: WebSocket) -> None:
    """Serve `GET /ws` until either side closes it."""
    house = house_of(socket)
    house.tracing.enter(socket.scope["headers"])
    with suppress(WebSocketDisconnect):  # it may go away while it is being greeted
        admitted = await admit(socket, house)
        if admitted is not None:
            caller, seat = admitted
            with seat:
                await Connection(socket, house, caller).serve()


class Connection:
    """What one client's socket is doing now.

    The receiving task never waits for anything but the socket: an unread frame would keep pongs
    from being read. While there are frames to answer, another answers them in turn; while there is
    something to send that has to wait, one of the sender's sends it.
    """

    __slots__ = (
        *("_socket", "_house", "_session_id", "_after", "_reader", "_sender"),
        *("_inbox", "_inbox_chars", "_answers", "_answering", "_bad_frames", "_caller"),
    )

    def __init__(self, socket: WebSocket, house: House, caller: Caller) -> None:
        self._socket = socket
        self._house = house
        self._caller = caller
        query = QueryParams(socket.scope["query_string"])
        self._session_id = query.get("session_id") or ""
        self._after = query.get("after")
        self._reader: Reader | None = None
        # A list, for it is short, and an empty deque weighs 0.6 KB.
        self._inbox: list[str] = []
        self._inbox_chars = 0
        self._sender = Sender(
            socket, heartbeat_s=house.settings.heartbeat_s, sent=house.figures.websocket
        )
        self._answers = Errand()
        self._answering = False
        self._bad_frames = 0

    def say(self, frame: ServerFrame) -> None:
        """Send a frame as soon as the socket takes it."""
        self._sender.say(frame)

    def check_rights(self) -> None:
        """Close the socket if the caller's credentials are not good any longer."""
        why = self._house.entrance.authenticator.lapse(self._caller.principal)
        if why is not None and not self._sender.closing:
            self.say(Error.of(lapsed(why)))
            expired = why == "expired"
            self._sender.close(CloseCode.TOKEN_EXPIRED if expired else CloseCode.UNAUTHORIZED)

    async def serve(self) -> None:
        """Greet the client, then send and receive until the socket is closed."""
        created = not self._session_id
        if created:
            self._session_id = str(uuid4())
        # Before it is looked up: whatever is stored after that is heard of.
        with self._house.broker.watch(self._session_id, self._sender.ring) as channel:
            try:
                joined = await self._join(created=created)
            except Exception as error:  # whatever it is, the client is told and the socket closed
                await turn_away(self._socket, as_refusal(error), self._house.figures)
                return
            if self._after is not None:
                self._house.figures.resumes[joined.resumed] += 1
            self._reader = Reader(
                self._claim,
                joined.cursor,
                channel=channel,
                database=self._house.database,
                figures=self._house.figures,
                at_end=joined.at_end,
            )
            self.say(greet(self._house, self._session_id, joined, created=created))
            await self._attend(self._reader)

    async def _join(self, *, created: bool) -> Joined:
        house = self._house
        if created:
            await begin_session(house, self._caller, self._session_id)
            return stored_log.joined_new(self._after)
        house.database.submit(sessions.note_use(self._claim))
        return await house.database.read(stored_log.join(self._claim, self._after))

    @property
    def _claim(self) -> Claim:
        return self._caller.claim(self._session_id)

    async def _attend(self, reader: Reader) -> None:
        self._house.connections.add(self)
        if self._house.turns.draining:
            # It came too late to be told with the others.
            self.say(farewell())
        self._sender.begin(reader)
        try:
            await self._receive_all()
        finally:
            self._house.connections.discard(self)
            try:
                await self._answers.cancel()
            finally:
                await self._sender.end()

    # Receiving

    async def _receive_all(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            self._house.figures.received += 1
            text = message.get("text")
            if text is None:
                self._sender.close(CloseCode.BINARY)
            elif self._is_full(text):
                self._sender.close(CloseCode.RATE_LIMITED)
            else:
                self._inbox.append(text)
                self._inbox_chars += len(text)
                if not self._answering:
                    self._answering = True
                    self._answers.begin(self._answer_all())

    async def _answer_all(self) -> None:
        while self._inbox and not self._sender.closing:
            await self._sender.room()
            text = self._inbox.pop(0)
            self._inbox_chars -= len(text)
            await self._answer_one(text)
        self._answering = False

    def _is_full(self, text: str) -> bool:
        """Whether what waits to be answered is too much with this: in frames, or in characters."""
        chars = self._inbox_chars + len(text)
        most = max(MAX_INBOX_CHARS, self._house.settings.max_frame_bytes)
        return len(self._inbox) >= MAX_INBOX_FRAMES or chars > most

    async def _answer_one(self, text: str) -> None:
        try:
            frame = parse_client_frame(text, max_depth=self._house.settings.max_json_depth)
        except Refusal as refusal:
            self._refuse_frame(refusal)
            return
        self._bad_frames = 0
        try:
            if not isinstance(frame, Auth):
                self._house.entrance.check_rights(self._caller)
            await self._answer(frame)
        except Exception as error:  # whatever it is, the socket and other turns go on
            self._refuse(as_refusal(error), request_id=getattr(frame, "request_id", None))

    def _refuse(self, refusal: Refusal, *, request_id: str | None = None) -> None:
        self._house.figures.refusals[refusal.code] += 1
        self.say(Error.of(refusal, request_id=request_id))

    def _refuse_frame(self, refusal: Refusal) -> None:
        self._refuse(refusal)
        self._bad_frames += 1
        if self._bad_frames >= MAX_BAD_FRAMES:
            self._sender.close(CloseCode.INVALID_FRAMES)

    async def _answer(self, frame: ClientFrame) -> None:
        turns = self._house.turns
        match frame:
            case Chat():
                await turns.accept(Ask.chat(self._caller, self._session_id, frame), told=self.say)
            case Regenerate():
                await turns.accept(Ask.again(self._caller, self._session_id, frame), told=self.say)
            case Cancel():
                await turns.cancel(self._claim, frame.turn)
            case GetHistory():
                self.say(await self._history(frame))
            case Ping():
                self.say(Pong(request_id=frame.request_id))
            case GetHelp():
                self.say(Help(text=HELP))
            case Auth():
                await self._renew(frame.token)

    async def _renew(self, token: str) -> None:
        """Go on by a new token of the same caller's."""
        authenticator = self._house.entrance.authenticator
        if not authenticator.configured:
            return  # everybody is anonymous here: there is nothing to check
        principal = await self._house.entrance.prove(bearer(token))
        if principal.name != self._caller.principal.name:
            raise Refusal(ErrorCode.UNAUTHORIZED, "token: it is not of whom this connection is.")
        self._caller = replace(self._caller, principal=principal)

    async def _history(self, frame: GetHistory) -> History:
        assert self._reader is not None, "frames are answered after the greeting"  # noqa: S101
        page = await self._house.database.read(
            messages.page(
                self._claim,
                limit=frame.limit,
                before=frame.before,
                max_bytes=MAX_HISTORY_BYTES,
                upto=self._reader.cursor,
            )
        )
        return History(
            messages=page.messages,
            total_count=page.total_count,
            next_before=page.next_before,
            request_id=frame.request_id,
        )
