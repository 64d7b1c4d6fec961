"""Sending to Redis what changes here: all that is due in one go, one go at a time."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import Never

from gateway.brokers.layout import Layout
from gateway.brokers.mirror import Mirror, Verdict
from gateway.nodes.link import BrokerAway, Call, Link

log = logging.getLogger(__name__)

MAX_CALLS = 256
"""In one go; what is more is due in the next."""

MAX_DROPS = 10_000
"""Deletions that wait to be told while Redis is away."""

Settled = Callable[[Mirror, Verdict], None]
Listening = Callable[[str], bool]


class Sending:
    """What is to be sent, and the loops that send it; run by the broker.

    What comes while one go is under way merges into the next.
    """

    def __init__(
        self,
        link: Link,
        layout: Layout,
        *,
        lazy_s: float,
        refresh_s: float,
        listening: Listening,
        settled: Settled,
    ) -> None:
        """`listening` says whether this node hears what is published of a session; `settled` is
        told when another node, or a deletion, has put an end to a mirror."""
        self._link = link
        self._layout = layout
        self._lazy_s = lazy_s
        self._refresh_s = refresh_s
        self._listening = listening
        self._mirrors: set[Mirror] = set()
        self._due: set[Mirror] = set()
        self._drops: dict[str, None] = {}
        self._looks: set[str] = set()
        self._work = asyncio.Event()
        self._failing = False
        self._settled = settled

    @property
    def failing(self) -> bool:
        """Whether Redis is there and does not take what is sent."""
        return self._failing and bool(self._mirrors or self._drops)

    @property
    def idle(self) -> bool:
        """Whether nothing is to be sent, now or later."""
        return not (self._mirrors or self._drops or self._looks)

    def add(self, mirror: Mirror) -> None:
        """Send what is new of a turn, from its beginning to its end."""
        self._mirrors.add(mirror)
        self.soon(mirror)

    def soon(self, mirror: Mirror) -> None:
        """Send what is new of a turn at once."""
        self._due.add(mirror)
        self._work.set()

    def remove(self, mirror: Mirror) -> None:
        """Send nothing more of a turn."""
        mirror.silence()
        self._mirrors.discard(mirror)
        self._due.discard(mirror)

    def drop(self, session_id: str) -> None:
        """Tell everybody that a session is deleted."""
        if len(self._drops) < MAX_DROPS:
            self._drops[session_id] = None
        self._work.set()

    def look(self, session_id: str) -> None:
        """Ring the node that runs a session's turn: a hint, and gone if Redis is away."""
        if len(self._looks) < MAX_CALLS:
            self._looks.add(session_id)
        self._work.set()

    def resend(self) -> None:
        """See that Redis knows every turn: it may have forgotten, and lets none expire then."""
        for mirror in self._mirrors:
            mirror.refresh = True
        self._due |= self._mirrors
        self._work.set()

    async def run(self) -> Never:
        """Send what is due at once."""
        while True:
            await self._work.wait()
            self._work.clear()
            await self._send()

    async def run_lazily(self) -> Never:
        """Let what nobody waits for become due now and then, and let nothing expire."""
        loop = asyncio.get_running_loop()
        refreshed = loop.time()
        while True:
            await asyncio.sleep(self._lazy_s)
            if loop.time() - refreshed >= self._refresh_s:
                refreshed = loop.time()
                self.resend()
            self._due |= {mirror for mirror in self._mirrors if mirror.due}
            if self._due or self._drops:
                self._work.set()

    async def finish(self, within_s: float) -> None:
        """Send what is due, in the little time there is."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._link.up and (self._drops or any(m.due for m in self._mirrors)):
                    self._due |= self._mirrors
                    await self._send()
                    await asyncio.sleep(0)

    async def _send(self) -> None:
        batch = list(islice(self._due, MAX_CALLS))
        self._due.difference_update(batch)
        mirrors = [mirror for mirror in batch if mirror.due]
        drops, looks = list(islice(self._drops, MAX_CALLS)), self._looks
        self._looks = set()
        if not self._link.up:
            # All is due again once the link is back.
            self._due.clear()
            return
        calls = [mirror.call(self._layout) for mirror in mirrors]
        calls += [self._layout.drop(session_id) for session_id in drops]
        calls += [self._layout.look(session_id) for session_id in looks]
        if not calls:
            return
        answers = await self._ask(calls)
        for mirror, answer in zip(mirrors, answers, strict=False):
            self._settle(mirror, answer)
        for session_id, answer in zip(drops, answers[len(mirrors) :], strict=False):
            if not isinstance(answer, Exception):
                self._drops.pop(session_id, None)
        if self._due:
            self._work.set()

    async def _ask(self, calls: list[Call]) -> list[object]:
        try:
            answers = await self._link.run_all(calls)
        except BrokerAway as error:
            return [error] * len(calls)
        failed = next((answer for answer in answers if isinstance(answer, Exception)), None)
        if failed is not None and not self._failing:
            log.error("Redis does not take what is sent: %s", failed)
        self._failing = failed is not None
        return answers

    def _settle(self, mirror: Mirror, answer: object) -> None:
        verdict = mirror.took(answer, listening=self._listening(mirror.session_id))
        if mirror.over:
            self.remove(mirror)
            if verdict != "fine":
                self._settled(mirror, verdict)
        elif mirror.urgent and not isinstance(answer, Exception):
            self._due.add(mirror)
