"""The broker of a gateway that is one process: everything in memory, nothing awaited."""

from collections.abc import Iterator
from contextlib import contextmanager

from gateway.brokers.base import Ring
from gateway.brokers.live import LiveTurn
from protocol.server_frames import Frame


class MemoryChannel:
    """One session's present, kept while somebody watches or a turn is open."""

    __slots__ = ("closing", "deleted", "live", "newest", "rings")

    def __init__(self) -> None:
        # Replaced, never changed: who is rung may stop watching at once.
        self.rings: tuple[Ring, ...] = ()
        self.live: LiveTurn | None = None
        self.newest: int | None = None
        self.deleted = False
        self.closing = False

    def ring(self) -> None:
        """Tell everybody to look."""
        for ring in self.rings:
            ring()


class MemoryBroker:
    """Implements `gateway.brokers.base.Broker`."""

    def __init__(self) -> None:
        self._channels: dict[str, MemoryChannel] = {}
        self._closing = False

    @contextmanager
    def watch(self, session_id: str, ring: Ring) -> Iterator[MemoryChannel]:
        channel = self._channel(session_id)
        channel.rings = (*channel.rings, ring)
        try:
            yield channel
        finally:
            channel.rings = tuple(other for other in channel.rings if other != ring)
            self._forget_if_idle(session_id, channel)

    def live(self, session_id: str) -> LiveTurn | None:
        channel = self._channels.get(session_id)
        return channel.live if channel else None

    def is_watched(self, session_id: str) -> bool:
        return session_id in self._channels

    def begin(self, session_id: str, turn: LiveTurn) -> None:
        channel = self._channel(session_id)
        channel.live = turn
        channel.newest = turn.turn
        channel.ring()

    def place(self, session_id: str, *, position: int, eta_ms: int | None) -> None:
        if (channel := self._channels.get(session_id)) and channel.live:
            channel.live.place(position, eta_ms)
            channel.ring()

    def append(self, session_id: str, text: str, *, token_count: int) -> None:
        channel = self._channels.get(session_id)
        if channel is not None and (live := channel.live) is not None:
            live.append(text, token_count)
            for ring in channel.rings:
                ring()

    def notice(self, session_id: str, frame: Frame) -> None:
        if (channel := self._channels.get(session_id)) and channel.live:
            channel.live.notice(frame)
            channel.ring()

    def end(self, session_id: str, ending: Frame) -> None:
        if (channel := self._channels.get(session_id)) and channel.live:
            channel.live.finish(ending)
            channel.live = None
            channel.ring()
            self._forget_if_idle(session_id, channel)

    def drop(self, session_id: str) -> None:
        if channel := self._channels.pop(session_id, None):
            channel.live = None
            channel.deleted = True
            channel.ring()

    def close(self) -> None:
        self._closing = True
        for channel in self._channels.values():
            channel.closing = True
            channel.ring()

    def _channel(self, session_id: str) -> MemoryChannel:
        channel = self._channels.setdefault(session_id, MemoryChannel())
        channel.closing = self._closing
        return channel

    def _forget_if_idle(self, session_id: str, channel: MemoryChannel) -> None:
        if not channel.rings and channel.live is None and not channel.deleted:
            self._channels.pop(session_id, None)
