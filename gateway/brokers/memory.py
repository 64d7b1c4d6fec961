"""The broker of a gateway that is one process: everything in memory, nothing awaited."""

from collections.abc import Iterator
from contextlib import contextmanager

from gateway.brokers.base import Ring
from gateway.brokers.live import LiveTurn
from protocol.server_frames import Frame


class MemoryChannel:
    """One session's present, kept while somebody watches or a turn is open."""

    __slots__ = ("closing", "deleted", "doubts", "live", "look", "newest", "rings")

    def __init__(self) -> None:
        # Replaced, never changed: who is rung may stop watching at once.
        self.rings: tuple[Ring, ...] = ()
        self.live: LiveTurn | None = None
        self.look: Ring | None = None
        self.newest: int | None = None
        self.doubts = 0
        self.deleted = False
        self.closing = False

    def ring(self) -> None:
        """Tell everybody to look."""
        for ring in self.rings:
            ring()

    def attach(self, turn: LiveTurn, look: Ring | None = None) -> None:
        """Make a turn the open one; an attempt before it is void from now on."""
        if self.live is not None:
            self.live.withdraw()
        self.live, self.look = turn, look
        self.newest = turn.turn
        self.ring()

    def detach(self) -> None:
        """No turn is open any more."""
        self.live = self.look = None

    def doubt(self) -> None:
        """Let the readers ask storage what is new."""
        self.doubts += 1
        self.ring()


class MemoryPublisher:
    """Implements `gateway.brokers.base.Publisher`."""

    __slots__ = ("_broker", "_channel", "_session_id", "_turn")

    def __init__(
        self, broker: "MemoryBroker", session_id: str, *, channel: MemoryChannel, turn: LiveTurn
    ) -> None:
        self._broker = broker
        self._session_id = session_id
        self._channel = channel
        self._turn = turn

    def place(self, *, position: int, eta_ms: int | None) -> None:
        if self._channel.live is self._turn:
            self._turn.place(position, eta_ms)
            self._channel.ring()

    def append(self, text: str, *, token_count: int) -> None:
        channel = self._channel
        if channel.live is self._turn:
            self._turn.append(text, token_count)
            for ring in channel.rings:
                ring()

    def notice(self, frame: Frame) -> None:
        if self._channel.live is self._turn:
            self._turn.notice(frame)
            self._channel.ring()

    def end(self, ending: Frame) -> None:
        if self._channel.live is self._turn:
            self._turn.finish(ending)
            self._silence()

    def withdraw(self) -> None:
        if self._channel.live is self._turn:
            self._turn.withdraw()
            self._channel.doubts += 1
            self._silence()

    def _silence(self) -> None:
        self._channel.detach()
        self._channel.ring()
        self._broker.forget_if_idle(self._session_id)


class MemoryBroker:
    """Implements `gateway.brokers.base.Broker`."""

    ready = True

    def __init__(self) -> None:
        self._channels: dict[str, MemoryChannel] = {}
        self._closing = False

    @contextmanager
    def watch(self, session_id: str, ring: Ring) -> Iterator[MemoryChannel]:
        channel = self.channel(session_id)
        channel.rings = (*channel.rings, ring)
        try:
            yield channel
        finally:
            channel.rings = tuple(other for other in channel.rings if other != ring)
            self.forget_if_idle(session_id)

    def live(self, session_id: str) -> LiveTurn | None:
        channel = self._channels.get(session_id)
        return channel.live if channel else None

    def watched(self) -> list[str]:
        return list(self._channels)

    def begin(self, session_id: str, turn: LiveTurn, look: Ring) -> MemoryPublisher:
        channel = self.channel(session_id)
        channel.attach(turn, look)
        return MemoryPublisher(self, session_id, channel=channel, turn=turn)

    def ask_to_look(self, session_id: str) -> None:
        channel = self._channels.get(session_id)
        if channel is not None and channel.look is not None:
            channel.look()

    def drop(self, session_id: str) -> None:
        if channel := self._channels.pop(session_id, None):
            channel.detach()
            channel.deleted = True
            channel.ring()

    def close(self) -> None:
        self._closing = True
        for channel in self._channels.values():
            channel.closing = True
            channel.ring()

    def channel(self, session_id: str) -> MemoryChannel:
        """Find a session's channel, or make one."""
        channel = self._channels.setdefault(session_id, MemoryChannel())
        channel.closing = self._closing
        return channel

    def forget_if_idle(self, session_id: str) -> None:
        """Let go of a channel that nobody watches and no turn is open on."""
        channel = self._channels.get(session_id)
        if channel is not None and not channel.rings and channel.live is None:
            del self._channels[session_id]
