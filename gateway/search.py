"""Looking for words in a session: stretch by stretch, from its end to its beginning.

No index helps: one of trigrams finds nothing shorter than three syllables. A session is read by its
own index, so what a search costs depends on that session alone.
"""

import asyncio
from collections.abc import Sequence

from protocol.rest import Messages
from protocol.server_frames import StoredMessage
from storage import stretches
from storage.claims import Claim
from storage.database import Database
from storage.matching import Words
from storage.messages import DEFAULT_MESSAGES
from storage.operations import Row
from storage.placed import Place, fitting

SEARCH_WITHIN_S = 2.0
"""A search that takes longer shows what it has found, and where to go on."""


class Finds:
    """What a search has found so far, the newest first, until that is enough for a page."""

    def __init__(self, *, most: int, max_bytes: int) -> None:
        self._most = most
        self._max_bytes = max_bytes
        self._rows: list[Row] = []
        self._chars = 0

    @property
    def enough(self) -> bool:
        """Whether there is a page, and one more to tell that there is another."""
        # No character takes less than a byte.
        return len(self._rows) > self._most or self._chars > self._max_bytes

    def take(self, rows: Sequence[Row]) -> None:
        """Take what was found next."""
        self._rows += rows
        self._chars += sum(len(row["content"]) for row in rows)

    def page(self, looked_upto: str | None) -> tuple[list[StoredMessage], str | None]:
        """Make a page of it, oldest first, and say before which message to go on.

        `looked_upto` is the last message looked at; None if there are no more behind it.
        """
        shown = fitting(self._rows[: self._most], self._max_bytes)
        more = len(shown) < len(self._rows)
        return shown[::-1], shown[-1].message_id if more else looked_upto


async def search(
    database: Database,
    claim: Claim,
    words: Words,
    *,
    limit: int | None,
    before: str | None,
    max_bytes: int,
    one_at_a_time: asyncio.Lock,
    include_replaced: bool = False,
    within_s: float = SEARCH_WITHIN_S,
) -> Messages:
    """Find the newest messages that hold all words, or those before a message.

    A page ends early at `max_bytes` of JSON, and where the search was at after `within_s`; it then
    may hold none at all. Of searches that share `one_at_a_time` only one at any moment looks
    through texts: each thread that does may keep the loop, with its tokens, waiting.
    Raises `Refusal`: `session_not_found`, `message_not_found`.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + within_s
    sought = await database.read(stretches.begin_search(claim, before=before))
    finds = Finds(most=limit or DEFAULT_MESSAGES, max_bytes=max_bytes)
    place = sought.before
    while True:
        older = stretches.older(claim, place, include_replaced=include_replaced)
        rows = await database.read(older)
        # In a thread: texts may be long, and the loop has tokens to send.
        async with one_at_a_time:
            finds.take(await asyncio.to_thread(words.among, rows))
        looked_upto = rows[-1]["message_id"] if len(rows) == stretches.LOOKED_THROUGH else None
        if looked_upto is None or finds.enough or clock() >= until:
            break
        place = Place.of(rows[-1])
    shown, next_before = finds.page(looked_upto)
    return Messages(
        session_id=claim.session_id,
        messages=shown,
        total_count=sought.total_count,
        next_before=next_before,
        cursor=None,
    )
