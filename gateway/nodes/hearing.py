"""Hearing what is published on Redis, over one connection that does nothing else."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Never

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from gateway.nodes.asking import ANSWER_TICKS, IDLE_TICKS, ServerLost, answer_of, packed

log = logging.getLogger(__name__)

MAX_AT_ONCE = 512
"""Channels named in one command."""

Heard = Callable[[str], None]
Stands = Callable[[], None]


def nothing() -> None:
    """Do nothing about a subscription that stands."""


class Ears:
    """What a node listens to, whether or not it is connected."""

    def __init__(self) -> None:
        self._wanted: dict[str, tuple[Heard, Stands]] = {}
        self._changed: set[str] = set()
        self._work = asyncio.Event()

    def subscribe(self, channel: str, heard: Heard, stands: Stands = nothing) -> None:
        self._wanted[channel] = (heard, stands)
        self._note(channel)

    def unsubscribe(self, channel: str) -> None:
        if self._wanted.pop(channel, None) is not None:
            self._note(channel)

    def _note(self, channel: str) -> None:
        self._changed.add(channel)
        self.wake()

    def wake(self) -> None:
        """Let whoever waits for changes go on, even if there are none."""
        self._work.set()

    def all(self) -> list[str]:
        """Name all channels; there are no changes to them any more."""
        self._changed.clear()
        return list(self._wanted)

    async def changed(self) -> set[str]:
        """Wait until there are changes, or to be woken; name their channels."""
        await self._work.wait()
        self._work.clear()
        changed, self._changed = self._changed, set()
        return changed

    def wants(self, channel: str) -> bool:
        return channel in self._wanted

    def hear(self, channel: str, message: str) -> None:
        if (told := self._wanted.get(channel)) is not None:
            try:
                told[0](message)
            except Exception as error:  # whatever it is, the other channels are not to blame
                # Without its text, which may quote what somebody said.
                kind = type(error).__name__
                log.error("a message on %s could not be dealt with: %s", channel, kind)

    def stand(self, channel: str) -> None:
        if (told := self._wanted.get(channel)) is not None:
            try:
                told[1]()
            except Exception:  # as above
                log.exception("the subscription of %s could not be dealt with", channel)


class Hearing:
    """One connection's subscriptions; `send`, `listen` and `tick` are run by the link.

    `complete` is called once everything stands that was wanted when it began.
    """

    def __init__(
        self, connection: AbstractConnection, ears: Ears, complete: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._ears = ears
        self._complete = complete
        self._asked: set[str] = set()
        self._standing: set[str] = set()
        self._awaited: set[str] | None = None
        self._tick = 0
        self._last_heard = 0
        self._ping_due = False

    async def send(self) -> Never:
        """Subscribe to what is wanted, and follow the changes of that."""
        channels = self._ears.all()
        self._awaited = set(channels)
        self._asked = set(channels)
        await self._tell("SUBSCRIBE", channels)
        self._complete_if_so()
        while True:
            changed = await self._ears.changed()
            wanted = {channel for channel in changed if self._ears.wants(channel)}
            for channel in wanted & self._asked & self._standing:
                self._ears.stand(channel)
            new, gone = wanted - self._asked, (changed - wanted) & self._asked
            self._asked = (self._asked | new) - gone
            await self._tell("SUBSCRIBE", new)
            await self._tell("UNSUBSCRIBE", gone)
            if self._ping_due:
                self._ping_due = False
                await self._send(packed("PING"))

    async def _tell(self, command: str, channels: Iterable[str]) -> None:
        rest = iter(channels)
        while some := tuple(islice(rest, MAX_AT_ONCE)):
            await self._send(packed(command, *some))

    async def _send(self, command: bytes) -> None:
        await self._connection.send_packed_command(command, check_health=False)

    async def listen(self) -> Never:
        """Hand what is heard to those who want it."""
        while True:
            self._take(await answer_of(self._connection))

    def _take(self, answer: Any) -> None:
        self._last_heard = self._tick
        match answer:
            case ["message", channel, message]:
                self._ears.hear(channel, message)
            case ["subscribe", channel, _]:
                self._standing.add(channel)
                self._ears.stand(channel)
                if self._awaited is not None:
                    self._awaited.discard(channel)
                    self._complete_if_so()
            case ["unsubscribe", channel, _]:
                self._standing.discard(channel)
            case ResponseError():
                raise ServerLost(str(answer))

    def _complete_if_so(self) -> None:
        if self._awaited is not None and not self._awaited:
            self._awaited = None
            self._complete()

    def tick(self) -> None:
        """Ask whether the server is there; raise `ServerLost` if nothing is heard for long."""
        self._tick += 1
        if self._tick - self._last_heard > ANSWER_TICKS:
            raise ServerLost("nothing is heard")
        if self._tick % IDLE_TICKS == 0:
            # Not sent here: with a server that takes nothing, whoever sends waits.
            self._ping_due = True
            self._ears.wake()
