"""The two SSE streams: of one turn, as the original had it, and of a session, for `EventSource`."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from gateway.caller import Caller
from gateway.conversation import follow
from gateway.errors import as_refusal
from gateway.house import House
from gateway.limits.occupancy import Seat
from protocol.cursor import END, Cursor
from protocol.errors import ErrorCode, Refusal
from protocol.server_frames import Error, Frame, Ready
from protocol.sse import comment, encode
from storage.claims import Claim

KEEP_ALIVE_S = 15.0
DONE = encode("[DONE]")
HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
_STREAM_ERROR = "Stream error: "
"""The original's web client shows an error only if its message says so."""


class EventStream(StreamingResponse):
    """A response whose body is an endless generator of encoded events; it keeps a seat."""

    def __init__(self, events: AsyncIterator[bytes], seat: Seat) -> None:
        super().__init__(events, headers=HEADERS, media_type="text/event-stream")
        self._seat = seat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end or the client leaves."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._seat.leave()


async def turn_events(
    house: House, caller: Caller, claim: Claim, turn: int
) -> AsyncGenerator[bytes, None]:
    """Tell one turn from its beginning to its end, then `[DONE]`."""
    begun = False
    frames = _followed(house, caller, claim, Cursor(turn - 1, 0, END))
    async with aclosing(frames):
        async for frame in frames:
            if frame is None:
                yield comment("waiting")
                continue
            if frame.type == "start" and begun:
                # Another attempt: this stream cannot take back what it has told.
                frame = Error.of(Refusal(ErrorCode.INTERRUPTED)).frame()
            begun = begun or frame.type == "start"
            yield _stream_error(frame) if frame.type == "error" else _encoded(frame)
            if frame.type in ("complete", "error"):
                break
    yield DONE


async def session_events(house: House, caller: Caller, ready: Ready) -> AsyncGenerator[bytes, None]:
    """Tell a session's log from a cursor on, until the client leaves or the session is gone."""
    yield _encoded(ready.frame())
    cursor = Cursor.parse(ready.cursor)
    assert cursor is not None  # noqa: S101
    frames = _followed(house, caller, caller.claim(ready.session_id), cursor)
    async with aclosing(frames):
        async for frame in frames:
            yield comment("waiting") if frame is None else _encoded(frame)


async def _followed(
    house: House, caller: Caller, claim: Claim, cursor: Cursor
) -> AsyncGenerator[Frame | None, None]:
    """Follow the log; what ends it without an end of a turn becomes an `error` without `id`."""
    frames = follow(
        claim,
        cursor,
        broker=house.broker,
        database=house.database,
        silence_s=KEEP_ALIVE_S,
    )
    async with aclosing(frames):
        try:
            async for frame in frames:
                house.entrance.check_rights(caller)
                yield frame
        except Exception as error:  # whatever it is, the client is told before the stream ends
            yield Error.of(as_refusal(error)).frame()


def _stream_error(frame: Frame) -> bytes:
    error = Error.model_validate_json(frame.text)
    return _encoded(error.model_copy(update={"message": _STREAM_ERROR + error.message}).frame())


def _encoded(frame: Frame) -> bytes:
    return encode(frame.text, id=str(frame.cursor) if frame.cursor else None)
