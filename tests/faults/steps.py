"""What can happen to a session, step by step."""

from dataclasses import dataclass
from typing import Literal

from tests.faults.session import Place, Request

Via = Literal["tab", "rest", "sse"]


@dataclass(frozen=True)
class Nothing:
    """Only look."""


@dataclass(frozen=True)
class Ask:
    """Chat, edit or, where `message` is None, regenerate."""

    via: Via
    request: Request
    request_id: str | None
    who: int = 0


@dataclass(frozen=True)
class Cancel:
    """Stop a turn: None does not name it, 0 names the open one."""

    via: Via
    turn: int | None
    who: int = 0


@dataclass(frozen=True)
class Open:
    """Join as a tab or as an `EventSource`; `after` "left" is where the last one went away."""

    via: Via
    after: Place | Literal["left", "nonsense"] | None


@dataclass(frozen=True)
class Leave:
    """Go away, in the middle of whatever is going on."""

    who: int


@dataclass(frozen=True)
class Say:
    """The model says a piece, the text so many times over."""

    text: str
    times: int = 1


@dataclass(frozen=True)
class End:
    """The model completes its reply or fails; or completes it while somebody cancels it."""

    how: Literal["complete", "fail", "race"]


@dataclass(frozen=True)
class Busy:
    """Somebody else keeps the model busy, or, if so, is done with it."""


@dataclass(frozen=True)
class History:
    """Look at the history."""

    via: Via
    limit: int | None
    who: int = 0


@dataclass(frozen=True)
class Delete:
    """Delete the session."""


Step = Nothing | Ask | Cancel | Open | Leave | Say | End | Busy | History | Delete
