"""The two SSE streams: of one turn, as the original had it, and of a session, for `EventSource`."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from starlette.responses import StreamingResponse

from gateway.caller import Caller
from gateway.conversation import follow
from gateway.errors import as_refusal
from gateway.house import House
from protocol.cursor import END, Cursor
from protocol.errors import ErrorCode, Refusal
from protocol.server_frames import Error, Frame, Ready
from protocol.sse import comment, encode
from storage.claims import Claim

KEEP_ALIVE_S = 15.0
RIGHTS_EVERY_S = 1.0
"""How often whoever has proved who they are is asked for that, while there is nothing to tell."""

DONE = encode("[DONE]")
HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
_STREAM_ERROR = "Stream error: "
"""The original's web client shows an error only if its message says so."""


class EventStream(StreamingResponse):
    """A response whose body is an endless generator of encoded events."""

    def __init__(self, events: AsyncIterator[bytes]) -> None:
        super().__init__(events, headers=HEADERS, media_type="text/event-stream")


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
            if frame.type == "error":
                frame = _stream_error(frame)
            yield _sent(house, frame)
            if frame.type in ("complete", "error"):
                break
    yield DONE


async def session_events(house: House, caller: Caller, ready: Ready) -> AsyncGenerator[bytes, None]:
    """Tell a session's log from a cursor on, until the client leaves or the session is gone."""
    yield _sent(house, ready.frame())
    cursor = Cursor.parse(ready.cursor)
    assert cursor is not None  # noqa: S101
    frames = _followed(house, caller, caller.claim(ready.session_id), cursor)
    async with aclosing(frames):
        async for frame in frames:
            yield comment("waiting") if frame is None else _sent(house, frame)


async def _followed(
    house: House, caller: Caller, claim: Claim, cursor: Cursor
) -> AsyncGenerator[Frame | None, None]:
    """Follow the log; what ends it without an end of a turn becomes an `error` without `id`."""
    looks_every_s = KEEP_ALIVE_S if caller.principal.anonymous else RIGHTS_EVERY_S
    frames = follow(
        claim,
        cursor,
        broker=house.broker,
        database=house.database,
        figures=house.figures,
        silence_s=looks_every_s,
    )
    silent_s = 0.0
    house.figures.streams += 1
    async with aclosing(frames):
        try:
            async for frame in frames:
                house.entrance.check_rights(caller)
                silent_s = 0.0 if frame is not None else silent_s + looks_every_s
                if frame is not None or silent_s >= KEEP_ALIVE_S:
                    silent_s = 0.0
                    yield frame
        except Exception as error:  # whatever it is, the client is told before the stream ends
            yield Error.of(as_refusal(error)).frame()
        finally:
            house.figures.streams -= 1


def _stream_error(frame: Frame) -> Frame:
    error = Error.model_validate_json(frame.text)
    return error.model_copy(update={"message": _STREAM_ERROR + error.message}).frame()


def _sent(house: House, frame: Frame) -> bytes:
    event = encode(frame.text, id=str(frame.cursor) if frame.cursor else None)
    house.figures.sse.frames += 1
    house.figures.sse.size += len(event)
    return event
