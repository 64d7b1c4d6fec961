"""The running turn as its readers see it: a text that only grows, and how it ends."""

from bisect import bisect_right

from protocol.cursor import Cursor
from protocol.server_frames import (
    MAX_EVENT_CHARS,
    Frame,
    Queued,
    Start,
    TurnStatus,
    token_frame,
    token_frames,
)

_MAX_CHARS_PER_READ = 4 * MAX_EVENT_CHARS


class LiveTurn:
    """One attempt of one turn.

    Readers keep an offset into its text; what they have not read yet arrives merged. Once it has
    ended the text is let go: it is stored, and who is behind reads it there.
    """

    # Slots here, in a reader and in a channel: fewer places in memory to look at for each token.
    __slots__ = (
        *("turn", "attempt", "start", "length", "newest", "token_count", "notices", "queued"),
        *("position", "asides", "ending", "void", "_pieces", "_begins", "_counts"),
        *("newest_token", "_last_read"),
    )

    def __init__(self, start: Start) -> None:
        self.turn = start.turn
        self.attempt = start.attempt
        self.start = start.frame()
        self.length = 0
        self.newest = -1
        """Where the newest piece begins; -1 where there is none."""
        self.newest_token: Frame | None = None
        """The newest piece, encoded; None if it is longer than one event may be.

        It is all that a reader who keeps up ever asks for, and the very same for every reader.
        """
        self.token_count = 0
        self.notices: list[Frame] = []
        self.queued: Frame | None = None
        self.position = 0
        self.asides = 0
        """How often something was told of it beside its text."""
        self.ending: Frame | None = None
        self.void = False
        """Whether there is another attempt by now: nothing more follows in this one."""
        self._pieces: list[str] = []
        self._begins: list[int] = []
        self._counts: list[int] = []
        self._last_read: tuple[int, int, list[Frame]] = (0, 0, [])

    @property
    def status(self) -> TurnStatus:
        """`queued` while the turn waits for the model."""
        return "queued" if self.position else "running"

    def append(self, text: str, token_count: int) -> None:
        """Let the reply grow; `token_count` is the model server's count after this piece."""
        self.newest = begin = self.length
        self._pieces.append(text)
        self._begins.append(begin)
        self._counts.append(token_count)
        self.length = begin + len(text)
        self.token_count = token_count
        self.newest_token = None
        if len(text) <= MAX_EVENT_CHARS:
            end = Cursor(self.turn, self.attempt, self.length)
            self.newest_token = token_frame(end, text, token_count)

    def place(self, position: int, eta_ms: int | None) -> None:
        """Note where the turn stands in the queue; 0 is out of it."""
        self.asides += 1
        self.position = position
        self.queued = (
            Queued(turn=self.turn, position=position, eta_ms=eta_ms).frame() if position else None
        )

    def notice(self, frame: Frame) -> None:
        """Tell the readers something that is not part of the log."""
        self.asides += 1
        self.notices.append(frame)

    def finish(self, ending: Frame, *, length: int | None = None) -> None:
        """Note the stored end, and let go of the text.

        `length` is how long the reply is, where that is not known here: who has read less of it
        finds the rest in storage.
        """
        self.ending = ending
        self.length = self.length if length is None else length
        self._let_go()

    def withdraw(self) -> None:
        """Note that there is another attempt by now."""
        self.void = True
        self._let_go()

    def _let_go(self) -> None:
        self.newest = -1
        self._pieces, self._begins, self._counts = [], [], []
        self.newest_token = None
        self._last_read = (0, 0, [])

    def text(self) -> str:
        """Join the reply so far."""
        return "".join(self._pieces)

    def tokens_after(self, offset: int) -> list[Frame]:
        """Encode what follows an offset, a bounded part of it at once.

        Readers that are equally far get the very same frames: a frame is encoded once.
        """
        begin, length, frames = self._last_read
        if not frames or begin != offset or length != self.length:
            text = self._read(offset)
            end = Cursor(self.turn, self.attempt, offset + len(text))
            frames = token_frames(
                end, text, self._count_at(end.offset), since=self._count_at(offset)
            )
            self._last_read = (offset, self.length, frames)
        return frames

    def _count_at(self, offset: int) -> int:
        """Count up to the piece that the character before an offset belongs to."""
        return self._counts[bisect_right(self._begins, offset - 1) - 1] if offset else 0

    def _read(self, offset: int) -> str:
        first = bisect_right(self._begins, offset) - 1
        parts = [self._pieces[first][offset - self._begins[first] :]]
        chars = len(parts[0])
        for piece in self._pieces[first + 1 :]:
            if chars >= _MAX_CHARS_PER_READ:
                break
            parts.append(piece)
            chars += len(piece)
        return "".join(parts)[:_MAX_CHARS_PER_READ]
