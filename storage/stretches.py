"""The history a stretch at a time: each is a read of its own, so that whoever is slow, or has a
long way to go, keeps neither a connection nor a snapshot of the database meanwhile.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from protocol.server_frames import StoredMessage
from storage import sessions
from storage.claims import Claim
from storage.operations import Operation, Row
from storage.placed import (
    FIRST,
    LAST,
    NEWER,
    NEWER_ACTIVE,
    OLDER,
    OLDER_ACTIVE,
    Place,
    count_active,
    message_of,
    newest,
    place_before,
)

LOOKED_THROUGH = 200
"""Messages that a search reads at once: few milliseconds of a connection."""

WRITTEN_OUT = 50
"""Messages that an export holds at once, each of tens of kilobytes at the most."""


@dataclass(frozen=True)
class Sought:
    """Where a search begins: before a place, in a session of so many active messages."""

    before: Place
    total_count: int


@dataclass(frozen=True)
class Extent:
    """What an export holds: what there was up to a place when it began, whatever comes later."""

    last: Place
    include_replaced: bool


@dataclass(frozen=True)
class Stretch:
    """Messages, oldest first, and the place behind which the next are; None: there are none."""

    messages: list[StoredMessage]
    after: Place | None


def begin_search(claim: Claim, *, before: str | None) -> Operation[Sought]:
    """Find where to search from: the end, or a message.

    Raises `Refusal`: `session_not_found`, `message_not_found`.
    """
    yield from sessions.require(claim)
    place = yield from place_before(claim.session_id, before)
    return Sought(place, (yield from count_active(claim.session_id)))


def older(claim: Claim, before: Place, *, include_replaced: bool) -> Operation[Sequence[Row]]:
    """Read the rows before a place, newest first; fewer than `LOOKED_THROUGH` are the last.

    Raises `Refusal` (`session_not_found`), also once the session is deleted.
    """
    yield from sessions.require(claim)
    bound = {"of_session": claim.session_id, "most": LOOKED_THROUGH} | before.bound("before")
    statement = OLDER if include_replaced else OLDER_ACTIVE
    return (yield statement, bound | LAST.bound("last"))


def begin_export(claim: Claim, *, include_replaced: bool) -> Operation[Extent]:
    """Settle what an export holds; raises `Refusal` (`session_not_found`)."""
    yield from sessions.require(claim)
    end = yield from newest(claim.session_id)
    return Extent(Place.last_at(end), include_replaced)


def newer(claim: Claim, extent: Extent, *, after: Place = FIRST) -> Operation[Stretch]:
    """Read the messages of an extent behind a place, as they stood when it was settled.

    Raises `Refusal` (`session_not_found`), also once the session is deleted.
    """
    yield from sessions.require(claim)
    bound = {"of_session": claim.session_id, "most": WRITTEN_OUT} | after.bound("after")
    statement = NEWER if extent.include_replaced else NEWER_ACTIVE
    rows = yield statement, bound | extent.last.bound("last")
    messages = [message_of(row, last_turn=extent.last.turn) for row in rows]
    return Stretch(messages, Place.of(rows[-1]) if len(rows) == WRITTEN_OUT else None)
