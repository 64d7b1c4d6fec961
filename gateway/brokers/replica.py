"""What a node knows of one session whose turns may run elsewhere: it decides, and never waits.

What is heard is a hint. It is applied where it fits exactly behind what is there already, in
whatever order and how often it comes; where it does not, the stream in Redis is to be read, and
where that does not help, storage.
"""

import json
from collections.abc import Iterable
from enum import Enum, auto

from gateway.brokers.base import Ring
from gateway.brokers.layout import DELETED, News
from gateway.brokers.live import LiveTurn
from gateway.brokers.memory import MemoryChannel
from gateway.brokers.mirror import Mirror
from protocol.cursor import END, Cursor
from protocol.server_frames import Frame, Start

_NOWHERE = Cursor(0, 0, 0)


class Advice(Enum):
    """What is to be done about something heard, besides what was done at once."""

    NOTHING = auto()
    READ = auto()
    """There is more in the stream."""
    SEND = auto()
    """Redis does not know the turn that runs here."""
    LOOK = auto()
    """Somebody says something about the turn that runs here that only storage can tell."""
    FORGET = auto()
    """The session is deleted."""


class View:
    """One session, as this node sees it."""

    __slots__ = ("_at", "channel", "connection", "heard_at", "look", "mirror", "stands", "unsure")

    def __init__(self, channel: MemoryChannel, *, now: float) -> None:
        self.channel = channel
        self.mirror: Mirror | None = None
        """What is sent of the turn that runs here, if one does."""
        self.look: Ring | None = None
        self.connection = 0
        """Since which connection of the link nothing can have been missed."""
        self.stands = False
        """Whether the subscription was made on that connection."""
        self.heard_at = now
        """When there last was news, or storage was asked for want of it; in the loop's time."""
        self.unsure = False
        """Whether a turn was open elsewhere when it was last heard of."""
        self._at = _NOWHERE

    # What happens here

    def begin(self, mirror: Mirror, look: Ring) -> None:
        """A turn begins here."""
        self.mirror, self.look = mirror, look
        self.unsure = False
        self._at = Cursor(mirror.turn.turn, mirror.turn.attempt, 0)

    def is_over(self, turn: LiveTurn) -> None:
        """A turn is over that ran here, or a replica's."""
        self._at = max(self._at, Cursor(turn.turn, turn.attempt, END))
        self.unsure = False

    @property
    def runs_here(self) -> LiveTurn | None:
        """The open turn, if this node runs it."""
        live = self.channel.live
        return live if self.mirror is not None and self.mirror.turn is live else None

    @property
    def taken_over(self) -> bool:
        """Whether another node is known to go on with the turn that runs here."""
        return self.mirror is not None and self.mirror.turn.void and not self.mirror.over

    @property
    def replica(self) -> LiveTurn | None:
        """The open turn, if another node runs it."""
        return self.channel.live if self.runs_here is None else None

    def doubt(self) -> None:
        """Give up the replica, which may be of a turn that is over: storage knows.

        If it is not over, it comes back from the stream.
        """
        if (turn := self.replica) is not None:
            turn.withdraw()
            self.channel.detach()
            # Before its beginning, so that it is news again.
            self._at = Cursor(turn.turn, turn.attempt, -1)
            self.unsure = True
        self.channel.doubt()

    # What is said elsewhere

    def hear(self, news: News, now: float) -> Advice:
        """Take what another node has published."""
        self.heard_at = now
        match news.kind:
            case "text":
                return self._hear_text(news)
            case "begin":
                self._hear_begin(news.body)
            case "place":
                self._hear_place(news)
            case "notice":
                self._hear_notice(news)
            case "end":
                return self._hear_end(news)
            case "look":
                return Advice.NOTHING if self.runs_here is None else Advice.LOOK
            case "drop":
                return Advice.FORGET
        return Advice.NOTHING

    def compare(self, head: str | None) -> Advice:
        """Take the newest cursor that Redis knows, None if there is none."""
        if head == DELETED:
            return Advice.FORGET
        at = _NOWHERE if head is None else Cursor.parse(head) or _NOWHERE
        if (own := self.runs_here) is not None and at[:2] <= (own.turn, own.attempt):
            if at[:2] < (own.turn, own.attempt):
                return Advice.SEND
            return Advice.LOOK if at.ended else Advice.NOTHING
        if at <= self._known():
            return Advice.NOTHING
        if not at.ended:
            return Advice.READ
        self._skip_to(at)
        return Advice.NOTHING

    def replay(self, entries: Iterable[tuple[str, str]]) -> None:
        """Take what lies in the stream."""
        turn: LiveTurn | None = None
        for kind, body in entries:
            if kind == "begin":
                turn = self._turn_of(body)
            elif turn is not None and kind == "text":
                _extend(turn, body)
            elif turn is not None and kind == "place":
                _place(turn, body)
        if turn is not None and turn is not self.channel.live:
            self._attach(turn)
        elif turn is not None:
            self.channel.ring()

    # One thing heard

    def _hear_begin(self, body: str) -> None:
        turn = self._turn_of(body)
        if turn is not None and turn is not self.channel.live:
            self._attach(turn)

    def _hear_text(self, news: News) -> Advice:
        turn = self._replica_of(news)
        if turn is None:
            newer = Cursor(news.turn, news.attempt, 1) > self._known()
            return Advice.READ if newer and not self._is_own(news) else Advice.NOTHING
        before = turn.length
        fits = _extend(turn, news.body)
        if turn.length > before:
            self.channel.ring()
        return Advice.NOTHING if fits else Advice.READ

    def _hear_place(self, news: News) -> None:
        if (turn := self._replica_of(news)) is not None:
            _place(turn, news.body)
            self.channel.ring()

    def _hear_notice(self, news: News) -> None:
        if (turn := self._replica_of(news)) is not None:
            turn.notice(Frame(_type_of(news.body), None, news.body))
            self.channel.ring()

    def _hear_end(self, news: News) -> Advice:
        at = Cursor(news.turn, news.attempt, END)
        length, _, ending = news.body.partition(" ")
        if self._is_own(news):
            return Advice.LOOK
        if (turn := self._replica_of(news)) is not None:
            turn.finish(Frame(_type_of(ending), at, ending), length=int(length))
            self.is_over(turn)
            self.channel.detach()
            self.channel.ring()
        elif at > self._known():
            self._skip_to(at)
        return Advice.NOTHING

    # What is there

    def _known(self) -> Cursor:
        live = self.channel.live
        return self._at if live is None else Cursor(live.turn, live.attempt, live.length)

    def _is_own(self, news: News) -> bool:
        own = self.runs_here
        return own is not None and (own.turn, own.attempt) == (news.turn, news.attempt)

    def _replica_of(self, news: News) -> LiveTurn | None:
        turn = self.replica
        if turn is None or turn.turn != news.turn or turn.attempt != news.attempt:
            return None
        return turn

    def _turn_of(self, start: str) -> LiveTurn | None:
        """Find the replica that a `start` event begins, or make it; None if it is outdated."""
        turn, live = LiveTurn(Start.model_validate_json(start)), self.channel.live
        at = (turn.turn, turn.attempt)
        if live is None:
            return turn if Cursor(*at, 0) >= self._at else None
        if at == (live.turn, live.attempt):
            return self.replica
        return turn if at > (live.turn, live.attempt) else None

    def _attach(self, turn: LiveTurn) -> None:
        self._at = Cursor(turn.turn, turn.attempt, 0)
        self.unsure = False
        self.channel.attach(turn)

    def _skip_to(self, at: Cursor) -> None:
        """A turn is over of which not all was heard: storage has it."""
        if (turn := self.channel.live) is not None:
            turn.withdraw()
            self.channel.detach()
        self._at = at
        self.unsure = False
        self.channel.newest = max(self.channel.newest or 0, at.turn)
        self.channel.doubt()


def _extend(turn: LiveTurn, token: str) -> bool:
    """Take of a `token` event what is new; False if there is a gap before it."""
    event = json.loads(token)
    content: str = event["content"]
    at = Cursor.parse(event["id"])
    if at is None or (at.turn, at.attempt) != (turn.turn, turn.attempt):
        return False
    known = len(content) - (at.offset - turn.length)
    if known < 0:
        return False
    if known < len(content):
        turn.append(content[known:], event["token_count"])
        if turn.position:  # that it is out of the queue was not heard
            turn.place(0, None)
    return True


def _place(turn: LiveTurn, body: str) -> None:
    position, _, eta_ms = body.partition(" ")
    turn.place(int(position), int(eta_ms) if eta_ms else None)


def _type_of(frame: str) -> str:
    kind: str = json.loads(frame)["type"]
    return kind
