"""What of one turn that runs here still has to be sent to Redis. It decides, and never waits."""

from collections.abc import Sequence
from typing import Literal

from gateway.brokers.layout import DELETED, NOT_HEARD, Entry, Layout
from gateway.brokers.live import LiveTurn
from gateway.nodes.asking import Call
from protocol.cursor import Cursor
from protocol.server_frames import Frame

Verdict = Literal["fine", "again", "fenced", "deleted"]


class Mirror:
    """One attempt of one turn, as far as Redis knows it.

    What waits to be sent is no queue but an offset into the text. `call` says what to send next,
    one call at a time, and `took` is told how that went.
    """

    __slots__ = (
        *("session_id", "turn", "eager", "over", "refresh", "_begun", "_sent", "_upto", "_ending"),
        *("_tail", "_place", "_place_sent", "_notices_sent", "_in_flight"),
    )

    def __init__(self, session_id: str, turn: LiveTurn) -> None:
        self.session_id = session_id
        self.turn = turn
        self.eager = False
        """Whether another node listens, so that text is sent at once."""
        self.over = False
        """Whether nothing is to be sent any more."""
        self.refresh = False
        """Whether something is to be sent even if nothing is new."""
        self._begun = False
        self._sent = 0
        self._upto = 0  # after the call that is in flight
        self._ending: Frame | None = None
        self._tail: list[Frame] = []
        self._place: tuple[int, int | None] = (0, None)
        self._place_sent: tuple[int, int | None] = (0, None)
        self._notices_sent = 0
        self._in_flight: tuple[bool, tuple[int, int | None], int] = (False, (0, None), 0)

    @property
    def open(self) -> bool:
        """Whether the turn goes on here, as far as is known."""
        return not self.over and not self.turn.void and self._ending is None

    @property
    def due(self) -> bool:
        """Whether there is anything to send."""
        if self.over or self.turn.void:
            return False
        new = self._ending is not None or not self._begun or self.turn.length > self._sent
        aside = self._place != self._place_sent or len(self.turn.notices) > self._notices_sent
        return new or aside or self.refresh

    @property
    def urgent(self) -> bool:
        """Whether there is something to send that somebody may be waiting for."""
        return self.due and (self.eager or not self._begun or self._ending is not None)

    def place(self, position: int, eta_ms: int | None) -> None:
        """Note where the turn stands in the queue."""
        self._place = (position, eta_ms)

    def end(self, ending: Frame, *, with_text: bool) -> None:
        """Note the end, before the turn lets go of its text.

        `with_text`: what of it was not sent yet goes with the end, a bounded part of it.
        """
        self._tail = self._text_after(self._upto) if with_text else []
        self._ending = ending
        self.eager = False

    def silence(self) -> None:
        """Send nothing more."""
        self.over = True
        self.eager = False
        self._tail = []

    def call(self, layout: Layout) -> Call:
        """Say what to send next; `took` has to be told before the next time."""
        turn = self.turn
        self.refresh = False
        self._in_flight = (self._ending is not None, self._place, len(turn.notices))
        if self._ending is not None:
            entries = self._opening() + _texts(self._tail)
            entries.append(("end", f"{turn.length} {self._ending.text}"))
            return layout.end(self.session_id, turn.turn, turn.attempt, entries)
        since = self._cursor(self._sent)
        frames = self._text_after(self._sent)
        self._upto = _end_of(frames, self._sent)
        entries = self._opening() + self._asides() + _texts(frames)
        if self._begun:
            upto = self._cursor(self._upto)
            return layout.go_on(self.session_id, entries, since=since, upto=upto)
        return layout.begin(self.session_id, self._cursor(self._upto), entries)

    def took(self, answer: object, *, listening: bool) -> Verdict:
        """Learn how the call went; `listening` is whether this node hears its own announcements.

        An `answer` that is neither a number nor a text means that nobody knows.
        """
        match answer:
            case int():
                return self._confirm(answer, listening=listening)
            case str():
                return self._reconsider(answer)
        self._upto = self._sent
        self._tail = []
        return "fine"

    def _confirm(self, heard: int, *, listening: bool) -> Verdict:
        ended, self._place_sent, self._notices_sent = self._in_flight
        self._begun = True
        self._sent = self._upto
        if ended:
            self.silence()
        elif heard != NOT_HEARD and self._ending is None:
            self.eager = heard > (1 if listening else 0)
        return "fine"

    def _reconsider(self, head: str) -> Verdict:
        """The head is not where it was left: find out why."""
        if head == DELETED:
            self.silence()
            return "deleted"
        at, mine = Cursor.parse(head), (self.turn.turn, self.turn.attempt)
        if at is not None and ((at.turn, at.attempt) > mine or (at[:2] == mine and at.ended)):
            self.silence()
            # What has ended is stored: it was not taken over, the session has only gone on.
            return "fenced" if self._ending is None else "fine"
        if at is not None and at[:2] == mine and at.offset <= self.turn.length:
            # An answer was lost, or what Redis wrote last. All up to there is of this attempt.
            self._begun, self._sent = True, at.offset
        else:
            # Lost altogether, or older than this attempt: it is published again as a whole.
            self._begun, self._sent = False, 0
        self._upto = self._sent
        return "again"

    def _opening(self) -> list[Entry]:
        return [] if self._begun else [("begin", self.turn.start.text)]

    def _asides(self) -> list[Entry]:
        entries: list[Entry] = []
        position, eta_ms = self._place
        if self._place != self._place_sent if self._begun else position:
            entries.append(("place", f"{position} {'' if eta_ms is None else eta_ms}"))
        notices = self.turn.notices[self._notices_sent :]
        return entries + [("notice", notice.text) for notice in notices]

    def _text_after(self, offset: int) -> list[Frame]:
        """Encode what follows, a bounded part of it: the very frames that readers here get."""
        turn = self.turn
        if offset >= turn.length:
            return []
        if turn.newest == offset and turn.newest_token is not None:
            return [turn.newest_token]
        return turn.tokens_after(offset)

    def _cursor(self, offset: int) -> Cursor:
        return Cursor(self.turn.turn, self.turn.attempt, offset)


def _texts(frames: Sequence[Frame]) -> list[Entry]:
    return [("text", frame.text) for frame in frames]


def _end_of(frames: Sequence[Frame], offset: int) -> int:
    last = frames[-1].cursor if frames else None
    return last.offset if last else offset
