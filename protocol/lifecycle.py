"""The life of a turn: what it may become, and through what. Pure.

queued ──admit──> running ──finish──> complete
   │                 │
   └───── cancel ────┴──> cancelled
   └────── fail ─────┴──> failed
   └─── interrupt ───┴──> interrupted     its process died, and it is not run again
   └──── take_up ────┴──> queued          its process died: the next attempt
"""

from typing import Literal

from protocol.server_frames import TurnStatus

Happening = Literal["admit", "finish", "cancel", "fail", "interrupt", "take_up"]

FIRST: TurnStatus = "queued"
"""What every attempt of a turn is to begin with, be it for no time at all."""

OPEN: tuple[TurnStatus, ...] = ("queued", "running")

TRANSITIONS: dict[tuple[TurnStatus, Happening], TurnStatus] = {
    ("queued", "admit"): "running",
    ("queued", "cancel"): "cancelled",
    ("queued", "fail"): "failed",
    ("queued", "interrupt"): "interrupted",
    ("queued", "take_up"): FIRST,
    ("running", "finish"): "complete",
    ("running", "cancel"): "cancelled",
    ("running", "fail"): "failed",
    ("running", "interrupt"): "interrupted",
    ("running", "take_up"): FIRST,
}
"""Whatever is not here cannot happen; what is over stays as it is."""


class IllegalTransition(Exception):
    """A turn was to become what it cannot: a mistake of ours."""

    def __init__(self, status: TurnStatus, happening: Happening) -> None:
        self.status = status
        self.happening = happening
        super().__init__(f"a turn that is {status} cannot {happening}")


def after(status: TurnStatus, happening: Happening) -> TurnStatus:
    """Say what a turn becomes; raise `IllegalTransition`."""
    try:
        return TRANSITIONS[status, happening]
    except KeyError:
        raise IllegalTransition(status, happening) from None
