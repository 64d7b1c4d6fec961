"""Reading a session's log from a cursor: storage for what is over, the broker for what runs.

One way of reading serves live streams, reconnects, second tabs and slow readers: a reader pulls
what follows its own cursor whenever it can send, so that text which piled up arrives merged.
"""

import asyncio
from collections.abc import AsyncGenerator

from gateway.brokers.base import Broker, Channel
from gateway.brokers.live import LiveTurn
from gateway.figures import Figures
from gateway.waiting import heard
from protocol.cursor import Cursor
from protocol.errors import ErrorCode, Refusal
from protocol.server_frames import Frame
from storage import log
from storage.claims import Claim
from storage.database import Database

_UNKNOWN = -1


class Reader:
    """A cursor on one session's log.

    `cursor` moves with what `read` returns, and is where another reader could go on. With `at_end`
    nothing that is stored follows it, as it was found while the channel was watched already.
    """

    __slots__ = (
        *("cursor", "_claim", "_channel", "_database", "_newest_stored", "_doubts"),
        *("_turn", "_told_queued", "_told_notices", "_told_asides", "_figures"),
    )

    def __init__(
        self,
        claim: Claim,
        cursor: Cursor,
        *,
        channel: Channel,
        database: Database,
        figures: Figures,
        at_end: bool = False,
    ) -> None:
        self.cursor = cursor
        self._figures = figures
        self._claim = claim
        self._channel = channel
        self._database = database
        self._newest_stored = cursor.turn if at_end else _UNKNOWN
        self._doubts = 0
        # The open turn that is being read, and what was told of it beside its text.
        self._turn: LiveTurn | None = None
        self._told_queued: Frame | None = None
        self._told_notices = 0
        self._told_asides = 0

    async def read(self) -> list[Frame]:
        """Read what follows the cursor now, a bounded part of it; nothing if nothing does.

        Raises `StorageError`, and `Refusal`: `session_not_found` once the session is deleted,
        `shutting_down` once nothing can follow in this process.
        Cancelling leaves the cursor where it was.
        """
        if (frames := self.read_live()) is not None:
            return frames
        doubts = self._channel.doubts
        frames = await self._database.read(log.read_after(self._claim, self.cursor))
        if not frames and self.cursor.ended:
            self._newest_stored, self._doubts = self.cursor.turn, doubts
        self._figures.merged_tokens += sum(frame.type == "token" for frame in frames)
        self._advance(frames)
        return frames or self._nothing()

    def read_newest(self) -> Frame | None:
        """Read the piece that was just appended, if that is all there is to read.

        It is all that most readers ever do. None means that `read_live` is to be asked.
        """
        turn = self._turn
        if turn is None or turn.newest != self.cursor.offset or turn.asides != self._told_asides:
            return None
        frame = turn.newest_token
        if frame is not None:
            self.cursor = frame.cursor or self.cursor
            self._figures.live_tokens += 1
        return frame

    def read_live(self) -> list[Frame] | None:
        """Read from memory alone; None where only storage can tell what comes next."""
        if self._channel.deleted:
            raise Refusal(ErrorCode.SESSION_NOT_FOUND)
        frames: list[Frame] = []
        if self._turn is not None and self._turn.void:
            self._turn = None
        if self._turn is None and self._channel.live is not None:
            frames += self._attach(self._channel.live)
        if self._turn is None:
            return self._nothing() if self._at_end() else None
        frames += self._asides(self._turn)
        if self._turn.ending is None:
            if self.cursor.offset < self._turn.length:
                tokens = self._turn.tokens_after(self.cursor.offset)
                if self.cursor.offset == self._turn.newest:
                    self._figures.live_tokens += len(tokens)
                else:
                    self._figures.merged_tokens += len(tokens)
                frames += tokens
        elif self.cursor.offset == self._turn.length:
            frames.append(self._turn.ending)
            self._turn = None
        else:
            # It ended before this reader had all its text, which is in storage now.
            self._turn = None
            return frames or None
        self._advance(frames)
        return frames or self._nothing()

    def _attach(self, turn: LiveTurn) -> list[Frame]:
        """Go on with the open turn, if it is what comes next; return its `start` if that is due."""
        at, attempt, _ = self.cursor
        # A node that stood still may tell of an attempt that another node has gone on from.
        due = (
            at == turn.turn - 1
            if self.cursor.ended
            else at == turn.turn and attempt <= turn.attempt
        )
        if not due:
            return []
        self._turn, self._told_queued = turn, None
        # Of a trouble that lasts, who joins is told once.
        self._told_notices = max(len(turn.notices) - 1, 0)
        if (at, attempt) == (turn.turn, turn.attempt):
            return []
        self._advance([turn.start])
        return [turn.start]

    def _asides(self, turn: LiveTurn) -> list[Frame]:
        """What there is to tell of a turn that is not part of the log."""
        self._told_asides = turn.asides
        asides = turn.notices[self._told_notices :]
        self._told_notices += len(asides)
        if turn.queued is not None and turn.queued is not self._told_queued:
            asides = [*asides, turn.queued]
        self._told_queued = turn.queued
        return asides

    def _nothing(self) -> list[Frame]:
        if self._channel.closing:
            raise Refusal(ErrorCode.SHUTTING_DOWN)
        return []

    def _at_end(self) -> bool:
        if not self.cursor.ended or self._doubts != self._channel.doubts:
            return False
        return self.cursor.turn == max(self._channel.newest or _UNKNOWN, self._newest_stored)

    def _advance(self, frames: list[Frame]) -> None:
        for frame in reversed(frames):
            if frame.cursor is not None:
                self.cursor = frame.cursor
                return


async def follow(
    claim: Claim,
    cursor: Cursor,
    *,
    broker: Broker,
    database: Database,
    figures: Figures,
    silence_s: float,
) -> AsyncGenerator[Frame | None, None]:
    """Yield everything after a cursor, as it comes, for ever; None after `silence_s` of nothing.

    Raises what `Reader.read` raises. Close the iterator when done with it.
    """
    news = asyncio.Event()
    with broker.watch(claim.session_id, news.set) as channel:
        reader = Reader(claim, cursor, channel=channel, database=database, figures=figures)
        while True:
            news.clear()
            frames = await reader.read()
            for frame in frames:
                yield frame
            if not frames and not await heard(news, silence_s):
                yield None
