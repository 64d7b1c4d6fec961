"""What a broker does: it carries the running turn from the runner to its readers.

The runner begins a turn and gets a publisher, which tells its place in the queue, appends text and
ends it, always after storing what that announces. Readers are rung whenever there may be something
new, and look for themselves: being rung is a hint, reading is the truth.

Nothing here waits. Readers of this process get text in the step that appends it, whatever else a
broker does to tell other nodes.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from gateway.brokers.live import LiveTurn
from protocol.server_frames import Frame

Ring = Callable[[], None]


class Channel(Protocol):
    """What this process knows of one session's present."""

    @property
    def live(self) -> LiveTurn | None:
        """The turn that is open, if there is one; where another node runs it, a replica."""

    @property
    def newest(self) -> int | None:
        """The number of the session's newest turn, where it is known here."""

    @property
    def doubts(self) -> int:
        """How often it became unclear here what is stored: a reader who sees it rise looks."""

    @property
    def deleted(self) -> bool:
        """Whether the session was deleted."""

    @property
    def closing(self) -> bool:
        """Whether nothing new will come in this process."""


class Publisher(Protocol):
    """The voice of one attempt of one turn.

    It falls silent, and every call does nothing, once the turn has ended, was withdrawn, or its
    session dropped.
    """

    def place(self, *, position: int, eta_ms: int | None) -> None:
        """Announce where the turn stands in the queue; position 0 is out of it."""

    def append(self, text: str, *, token_count: int) -> None:
        """Add text to the reply."""

    def notice(self, frame: Frame) -> None:
        """Tell the readers something that is not part of the log."""

    def end(self, ending: Frame) -> None:
        """Announce the end of the turn, which is stored."""

    def withdraw(self) -> None:
        """Take the attempt back: another node has made the next one of it."""


class Broker(Protocol):
    """The running turns of all sessions."""

    @property
    def ready(self) -> bool:
        """Whether turns may be begun: everybody who has to hear of them would."""

    def watch(self, session_id: str, ring: Ring) -> AbstractContextManager[Channel]:
        """Be rung, until the context ends, whenever the session may have something new."""

    def live(self, session_id: str) -> LiveTurn | None:
        """Look up the open turn of a session."""

    def watched(self) -> list[str]:
        """List the sessions that somebody reads here, or of which a turn is open here."""

    def begin(self, session_id: str, turn: LiveTurn, look: Ring) -> Publisher:
        """Announce a turn, or another attempt of it, that is stored.

        `look` is rung when storage is to be asked whether the turn is still this node's, and
        whether somebody wants it stopped.
        """

    def ask_to_look(self, session_id: str) -> None:
        """Ring the `look` of the open turn, on whichever node it runs; a hint."""

    def drop(self, session_id: str) -> None:
        """Forget a session that was deleted; its readers learn of it."""

    def close(self) -> None:
        """Tell all readers that nothing new will come in this process."""
