"""What is traced of a turn, and a tracing that does nothing, which is the default."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Protocol

from gateway.outcome import Outcome
from storage.turns import StoredTurn

Headers = Iterable[tuple[bytes, bytes]]
Stage = Literal["queue", "store"]

_NOTHING: AbstractContextManager[None] = nullcontext()


class TurnTrace(Protocol):
    """One attempt of one turn, from the moment this is made to `end`."""

    def stage(self, name: Stage) -> AbstractContextManager[None]:
        """Trace a stage of the turn: its wait for the model, or storing its end."""

    def call(self) -> AbstractContextManager[None]:
        """Trace one call of the model server; while it lasts the server is told of the trace."""

    def say(self) -> None:
        """Note that there is a first piece of text."""

    def end(self, outcome: Outcome | None) -> None:
        """Note how the turn ended; None if it was deleted, or goes on elsewhere. Once is enough."""


class Tracing(Protocol):
    """Traces turns; nothing of it waits, or raises."""

    def enter(self, headers: Headers) -> None:
        """Note which trace a request is part of, for all that is done in this context."""

    def begin(self, turn: StoredTurn) -> TurnTrace:
        """Begin to trace a turn."""


class UntracedTurn:
    """Implements `TurnTrace`."""

    def stage(self, name: Stage) -> AbstractContextManager[None]:
        return _NOTHING

    def call(self) -> AbstractContextManager[None]:
        return _NOTHING

    def say(self) -> None:
        return

    def end(self, outcome: Outcome | None) -> None:
        return


class Untraced:
    """Implements `Tracing`."""

    def __init__(self) -> None:
        self._turn = UntracedTurn()

    def enter(self, headers: Headers) -> None:
        return

    def begin(self, turn: StoredTurn) -> TurnTrace:
        return self._turn
