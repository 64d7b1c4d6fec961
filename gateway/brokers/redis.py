"""The broker of many nodes: local readers as ever, everybody else's by way of Redis.

Everything here happens in memory first, in the same step and at the same cost as with one process
alone. What is to be told is sent by a task; what others tell is applied to a replica of their turn,
which readers here cannot tell from a turn of this node. Redis only carries and announces: it may
lose anything at any moment, and all that costs is a little time.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Never

from gateway.brokers.base import Ring
from gateway.brokers.comparing import Comparing
from gateway.brokers.layout import Layout, News
from gateway.brokers.live import LiveTurn
from gateway.brokers.memory import MemoryBroker, MemoryChannel, MemoryPublisher
from gateway.brokers.mirror import Mirror, Verdict
from gateway.brokers.replica import Advice, View
from gateway.brokers.sending import Sending
from gateway.nodes.link import Link
from protocol.server_frames import Frame

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BrokerTimes:
    """How often what is done, in seconds."""

    lazy_s: float = 0.2
    """How long text waits that no other node listens to."""
    compare_s: float = 1.5
    """What a lost announcement costs at most."""
    quiet_s: float = 6.0
    """After how long without news storage is asked whether a turn elsewhere is over."""
    refresh_s: float = 10.0
    keep_s: float = 60.0
    """How long all lasts in Redis that is not refreshed."""
    finish_s: float = 1.0
    """How long closing may take to tell what is still to be told."""
    doubts_per_s: int = 1_000
    """How many sessions' readers are sent to storage at a time after news may have been missed."""


class RedisPublisher:
    """Implements `gateway.brokers.base.Publisher`."""

    __slots__ = ("_broker", "_local", "_mirror", "_sending")

    def __init__(
        self, broker: "RedisBroker", local: MemoryPublisher, *, mirror: Mirror, sending: Sending
    ) -> None:
        self._broker = broker
        self._local = local
        self._mirror = mirror
        self._sending = sending

    def place(self, *, position: int, eta_ms: int | None) -> None:
        self._local.place(position=position, eta_ms=eta_ms)
        if not self._mirror.over:
            self._mirror.place(position, eta_ms)
            self._sending.soon(self._mirror)

    def append(self, text: str, *, token_count: int) -> None:
        self._local.append(text, token_count=token_count)
        if self._mirror.eager:
            self._sending.soon(self._mirror)

    def notice(self, frame: Frame) -> None:
        self._local.notice(frame)
        if not self._mirror.over:
            self._sending.soon(self._mirror)

    def end(self, ending: Frame) -> None:
        self._broker.end(self._mirror, ending)
        self._local.end(ending)
        self._broker.leave_if_idle(self._mirror.session_id)

    def withdraw(self) -> None:
        self._local.withdraw()
        self._broker.withdraw(self._mirror)


class RedisBroker:
    """Implements `gateway.brokers.base.Broker`; made by `open_redis_broker`."""

    def __init__(self, link: Link, times: BrokerTimes) -> None:
        self.fenced = 0
        """How many attempts of this node turned out to have been taken over."""
        self._link = link
        self._layout = Layout(link.prefix, link.node, round(times.keep_s * 1000))
        self._local = MemoryBroker()
        self._views: dict[str, View] = {}
        self._now = asyncio.get_running_loop().time
        self._own = f"{link.node} "
        self._sending = Sending(
            link,
            self._layout,
            lazy_s=times.lazy_s,
            refresh_s=times.refresh_s,
            listening=self._listens,
            settled=self._settled,
        )
        self._comparing = Comparing(
            link,
            self._layout,
            self._views,
            advised=self._follow,
            every_s=times.compare_s,
            quiet_s=times.quiet_s,
            doubts_per_s=times.doubts_per_s,
        )

    def _loops(self) -> list[Callable[[], Awaitable[Never]]]:
        sending, comparing = self._sending, self._comparing
        return [sending.run, sending.run_lazily, comparing.run, comparing.run_doubts]

    @property
    def ready(self) -> bool:
        return self._link.up and not self._sending.failing

    @contextmanager
    def watch(self, session_id: str, ring: Ring) -> Iterator[MemoryChannel]:
        try:
            with self._local.watch(session_id, ring) as channel:
                self._view(session_id, channel)
                yield channel
        finally:
            self.leave_if_idle(session_id)

    def live(self, session_id: str) -> LiveTurn | None:
        return self._local.live(session_id)

    def watched(self) -> list[str]:
        return self._local.watched()

    def begin(self, session_id: str, turn: LiveTurn, look: Ring) -> RedisPublisher:
        mirror = Mirror(session_id, turn)
        view = self._view(session_id, self._local.channel(session_id))
        if view.mirror is not None:
            self._sending.remove(view.mirror)
        view.begin(mirror, look)
        self._sending.add(mirror)
        local = self._local.begin(session_id, turn, look)
        return RedisPublisher(self, local, mirror=mirror, sending=self._sending)

    def ask_to_look(self, session_id: str) -> None:
        view = self._views.get(session_id)
        if view is not None and view.runs_here is not None:
            self._local.ask_to_look(session_id)
        else:
            self._sending.look(session_id)

    def drop(self, session_id: str) -> None:
        self._sending.drop(session_id)
        self._forget(session_id)

    def close(self) -> None:
        self._local.close()

    # What a publisher does

    def end(self, mirror: Mirror, ending: Frame) -> None:
        """Note that a turn is about to end."""
        if mirror.open:
            mirror.end(ending, with_text=self._link.up)
            self._sending.soon(mirror)
            self._is_over(mirror)

    def withdraw(self, mirror: Mirror) -> None:
        """Note that a turn goes on elsewhere."""
        self._sending.remove(mirror)
        self._is_over(mirror)
        if mirror.session_id in self._views:
            self._comparing.soon(mirror.session_id)
            self.leave_if_idle(mirror.session_id)

    def leave_if_idle(self, session_id: str) -> None:
        """Stop listening to a session that nobody reads here, and no turn of which runs here."""
        view = self._views.get(session_id)
        if view is None or view.runs_here is not None or view.channel.rings:
            return
        view.channel.detach()
        self._local.forget_if_idle(session_id)
        self._leave(session_id)

    def _is_over(self, mirror: Mirror) -> None:
        view = self._views.get(mirror.session_id)
        if view is not None and view.mirror is mirror:
            view.is_over(mirror.turn)

    # What is heard, and what Redis answers

    def _hear(self, session_id: str, message: str) -> None:
        view = self._views.get(session_id)
        if view is None or message.startswith(self._own):
            return
        advice = view.hear(News.parse(message), self._now())
        if advice is not Advice.NOTHING or view.taken_over:
            self._follow(session_id, view, advice)

    def _stands(self, session_id: str) -> None:
        """A subscription stands, for the first time or again."""
        if (view := self._views.get(session_id)) is None:
            return
        missed = view.connection != self._link.times_connected
        view.connection, view.stands = self._link.times_connected, True
        self._comparing.soon(session_id)
        if missed:
            self._comparing.doubt(session_id)

    def _listens(self, session_id: str) -> bool:
        view = self._views.get(session_id)
        return view is not None and view.stands and view.connection == self._link.times_connected

    def _follow(self, session_id: str, view: View, advice: Advice) -> None:
        """Do what has to be done about something heard or read."""
        match advice:
            case Advice.READ:
                self._comparing.read(session_id)
            case Advice.SEND if view.mirror is not None:
                view.mirror.refresh = True
                self._sending.soon(view.mirror)
            case Advice.LOOK:
                _look(view)
            case Advice.FORGET:
                _look(view)
                self._forget(session_id)
        if view.taken_over and view.mirror is not None:
            self._settled(view.mirror, "fenced")

    def _settled(self, mirror: Mirror, verdict: Verdict) -> None:
        """Another node has put an end to what is sent from here."""
        self._sending.remove(mirror)
        view = self._views.get(mirror.session_id)
        if view is None or view.mirror is not mirror:
            return
        if verdict == "deleted":
            self._follow(mirror.session_id, view, Advice.FORGET)
        else:
            self.fenced += 1
            turn, attempt = _attempt(mirror)
            fields = {"session": mirror.session_id, "turn": turn, "attempt": attempt}
            log.info("a turn was taken over", extra=fields)
            _look(view)
            self._comparing.soon(mirror.session_id)

    # Which sessions this node listens to

    def _view(self, session_id: str, channel: MemoryChannel) -> View:
        if (view := self._views.get(session_id)) is None:
            view = self._views[session_id] = View(channel, now=self._now())
            view.connection = self._link.times_connected
            self._link.subscribe(
                self._layout.news(session_id),
                partial(self._hear, session_id),
                partial(self._stands, session_id),
            )
        return view

    def _forget(self, session_id: str) -> None:
        """Let go of a session that was deleted."""
        if (view := self._views.get(session_id)) is not None:
            if view.mirror is not None:
                self._sending.remove(view.mirror)
            self._leave(session_id)
        self._local.drop(session_id)

    def _leave(self, session_id: str) -> None:
        del self._views[session_id]
        self._comparing.forget(session_id)
        self._link.unsubscribe(self._layout.news(session_id))


@asynccontextmanager
async def open_redis_broker(
    link: Link, times: BrokerTimes | None = None
) -> AsyncIterator[RedisBroker]:
    """Carry turns between this node and the others until the context ends.

    What is still to be told then is told, if Redis takes it within `finish_s`.
    """
    times = times or BrokerTimes()
    broker = RedisBroker(link, times)
    link.when_up(broker._sending.resend)
    # No task group: that would wrap whatever the server fails with in an ExceptionGroup.
    tasks = [asyncio.create_task(_for_ever(loop)) for loop in broker._loops()]
    try:
        yield broker
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        broker.close()
        await broker._sending.finish(times.finish_s)


async def _for_ever(loop: Callable[[], Awaitable[Never]]) -> Never:
    while True:
        try:
            await loop()
        except Exception:  # whatever it is, what it was about is found due again
            log.exception("carrying turns between the nodes failed")
            await asyncio.sleep(0.2)


def _look(view: View) -> None:
    if view.look is not None:
        view.look()


def _attempt(mirror: Mirror) -> tuple[int, int]:
    return mirror.turn.turn, mirror.turn.attempt
