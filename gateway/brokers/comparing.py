"""Comparing what a node knows of its sessions with what Redis knows: the guarantee behind news."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Never

from gateway.brokers.layout import Layout
from gateway.brokers.replica import Advice, View
from gateway.nodes.link import BrokerAway, Link
from gateway.waiting import heard

log = logging.getLogger(__name__)

MAX_AT_ONCE = 256
MAX_PAGES = 64
"""Of a stream, in one reading; a turn hardly has as much."""

Advised = Callable[[str, View, Advice], None]


class Comparing:
    """Which sessions are to be compared, and the loops that do it; run by the broker.

    Announcements that get lost cost at most `every_s`.
    """

    def __init__(
        self,
        link: Link,
        layout: Layout,
        views: Mapping[str, View],
        *,
        advised: Advised,
        every_s: float,
        quiet_s: float,
        doubts_per_s: int,
    ) -> None:
        self._link = link
        self._layout = layout
        self._views = views
        self._advised = advised
        self._every_s = every_s
        self._quiet_s = quiet_s
        self._doubts_per_s = doubts_per_s
        self._due: dict[str, None] = {}
        self._unread: dict[str, None] = {}
        self._doubtful: dict[str, None] = {}
        self._work = asyncio.Event()
        self._doubts = asyncio.Event()

    def soon(self, session_id: str) -> None:
        """Compare a session at once."""
        self._due[session_id] = None
        self._work.set()

    def read(self, session_id: str) -> None:
        """Read a session's stream at once."""
        self._unread[session_id] = None
        self._work.set()

    def doubt(self, session_id: str) -> None:
        """Let a session's readers ask storage, soon, but not all readers at once."""
        self._doubtful[session_id] = None
        self._doubts.set()

    def forget(self, session_id: str) -> None:
        """Nobody reads a session here any more."""
        for those in (self._due, self._unread, self._doubtful):
            those.pop(session_id, None)

    async def run(self) -> Never:
        """Compare all sessions now and then, and some at once."""
        loop = asyncio.get_running_loop()
        all_at = loop.time() + self._every_s
        while True:
            await heard(self._work, max(all_at - loop.time(), 0))
            self._work.clear()
            if loop.time() >= all_at:
                all_at = loop.time() + self._every_s
                self._due |= dict.fromkeys(self._views)
                self._doubt_what_is_quiet(loop.time())
            try:
                await self._work_off()
            except BrokerAway:
                # Once it is back every subscription is made anew, and what it is of compared.
                self._due.clear()
                self._unread.clear()

    async def run_doubts(self) -> Never:
        """Let readers ask storage, at a pace that storage can follow."""
        while True:
            await self._doubts.wait()
            self._doubts.clear()
            while some := list(islice(self._doubtful, max(self._doubts_per_s // 10, 1))):
                for session_id in some:
                    del self._doubtful[session_id]
                    if (view := self._views.get(session_id)) is not None:
                        view.channel.doubt()
                await asyncio.sleep(0.1)

    async def _work_off(self) -> None:
        while self._due or self._unread:
            some = list(islice(self._due, MAX_AT_ONCE))
            heads = await self._link.get_all([self._layout.head(one) for one in some])
            for session_id, head in zip(some, heads, strict=True):
                self._due.pop(session_id, None)
                self._compare(session_id, head)
            while self._unread:
                session_id = next(iter(self._unread))
                del self._unread[session_id]
                await self._read(session_id)

    def _compare(self, session_id: str, head: str | None) -> None:
        if (view := self._views.get(session_id)) is not None:
            self._advised(session_id, view, view.compare(head))

    async def _read(self, session_id: str) -> None:
        view = self._views.get(session_id)
        entries = await self._stream(self._layout.turn(session_id)) if view else []
        # Meanwhile everybody may have gone, and others come.
        if view is not None and view is self._views.get(session_id):
            view.replay(entries)
            self._advised(session_id, view, Advice.NOTHING)

    async def _stream(self, key: str) -> list[tuple[str, str]]:
        entries: list[tuple[str, str]] = []
        after = ""
        for _ in range(MAX_PAGES):
            page = await self._link.entries(key, after)
            if not page:
                break
            entries += [entry for _, fields in page for entry in fields.items()]
            after = page[-1][0]
        return entries

    def _doubt_what_is_quiet(self, now: float) -> None:
        """Ask storage about turns of other nodes that nothing was heard of for long.

        The node may have died between storing the end and saying so. While Redis is away nothing
        is heard of any session, and each may have one.
        """
        away = not self._link.up
        for session_id, view in list(self._views.items()):
            if now - view.heard_at < self._quiet_s:
                continue
            if view.unsure or view.replica is not None:
                view.heard_at = now
                view.doubt()
                self.soon(session_id)
            elif away and view.runs_here is None:
                view.heard_at = now
                self.doubt(session_id)
