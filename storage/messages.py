"""The history: messages by turn, the newest page first."""

from dataclasses import dataclass

from sqlalchemy import bindparam, literal, select

from protocol.cursor import Cursor
from protocol.server_frames import StoredMessage
from storage import sessions
from storage.claims import Claim
from storage.operations import Operation
from storage.placed import (
    LAST,
    OLDER,
    OLDER_ACTIVE,
    Place,
    count_active,
    fitting,
    message_of,
    newest,
    place_before,
)
from storage.tables import REPLY, messages, turns

DEFAULT_MESSAGES = 100

_REPLY_OF = (
    select(
        messages,
        turns.c.turn,
        literal(REPLY).label("position"),
        turns.c.finish_reason,
        turns.c.replaced_by,
    )
    .select_from(turns)
    .join(messages, messages.c.message_id == turns.c.reply_message_id)
    .where(turns.c.session_id == bindparam("of_session"), turns.c.turn == bindparam("of_turn"))
)


@dataclass(frozen=True)
class Page:
    """Messages, oldest first; `cursor` is the place in the log that the page shows."""

    messages: list[StoredMessage]
    total_count: int
    next_before: str | None
    cursor: Cursor


def page(
    claim: Claim,
    *,
    limit: int | None,
    before: str | None,
    max_bytes: int,
    upto: Cursor | None = None,
    include_replaced: bool = False,
) -> Operation[Page]:
    """Read the newest messages, or those before a message, as they stand at a cursor.

    `upto` None is the end of the log. A page ends early at `max_bytes` of JSON, but holds at
    least one message. Raises `Refusal`: `session_not_found`, `message_not_found`.
    """
    yield from sessions.require(claim)
    session_id = claim.session_id
    cursor = upto or (yield from newest(session_id))
    last = Place.last_at(upto) if upto else LAST
    most = limit or DEFAULT_MESSAGES
    place = min((yield from place_before(session_id, before)), last.next)
    bound = place.bound("before") | last.bound("last")
    statement = OLDER if include_replaced else OLDER_ACTIVE
    rows = yield statement, {"of_session": session_id, "most": most + 1} | bound
    count = yield from count_active(session_id, last)
    shown = fitting(rows[:most], max_bytes)
    return Page(
        messages=shown[::-1],
        total_count=count,
        next_before=shown[-1].message_id if len(shown) < len(rows) else None,
        cursor=cursor,
    )


def reply(claim: Claim, turn: int) -> Operation[StoredMessage | None]:
    """Read the reply of a turn that is over; None where it left none.

    Raises `Refusal` (`session_not_found`).
    """
    yield from sessions.require(claim)
    rows = yield _REPLY_OF, {"of_session": claim.session_id, "of_turn": turn}
    return message_of(rows[0]) if rows else None
