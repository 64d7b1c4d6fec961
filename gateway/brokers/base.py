"""What a broker does: it carries the running turn from the runner to its readers.

The runner begins a turn, tells its place in the queue, appends text and ends it, always after
storing what that announces. Readers are rung whenever there may be something new, and look for
themselves: being rung is a hint, reading is the truth. What is said of a session that has been
dropped goes nowhere.
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
        """The turn that is open, if there is one."""

    @property
    def newest(self) -> int | None:
        """The number of the session's newest turn, where it is known here."""

    @property
    def deleted(self) -> bool:
        """Whether the session was deleted."""

    @property
    def closing(self) -> bool:
        """Whether nothing new will come in this process."""


class Broker(Protocol):
    """The running turns of all sessions."""

    def watch(self, session_id: str, ring: Ring) -> AbstractContextManager[Channel]:
        """Be rung, until the context ends, whenever the session may have something new."""

    def live(self, session_id: str) -> LiveTurn | None:
        """Look up the open turn of a session."""

    def is_watched(self, session_id: str) -> bool:
        """Whether anybody reads a session, or a turn of it is open."""

    def begin(self, session_id: str, turn: LiveTurn) -> None:
        """Announce a turn whose user message is stored."""

    def place(self, session_id: str, *, position: int, eta_ms: int | None) -> None:
        """Announce where an open turn stands in the queue; position 0 is out of it."""

    def append(self, session_id: str, text: str, *, token_count: int) -> None:
        """Add text to the reply of the open turn."""

    def notice(self, session_id: str, frame: Frame) -> None:
        """Tell the readers of an open turn something that is not part of the log."""

    def end(self, session_id: str, ending: Frame) -> None:
        """Announce the end of the open turn, which is stored."""

    def drop(self, session_id: str) -> None:
        """Forget a session that was deleted; its readers learn of it."""

    def close(self) -> None:
        """Tell all readers that nothing new will come in this process."""
