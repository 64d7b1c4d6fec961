"""Several model servers that serve the same model, behind one driver."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from llm.client import (
    ContextExceeded,
    Driver,
    Ending,
    Generation,
    NoConnection,
    PromptMessage,
    ReplyTooLong,
    Say,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnavailable,
    left_at_work,
)

logger = logging.getLogger(__name__)

FIRST_REST_S = 1.0
MAX_REST_S = 30.0
"""How long a server that failed is left alone: twice as long each time, up to this."""

_SAYS_NOTHING = (ContextExceeded, ReplyTooLong)
"""Failures that are the prompt's or the reply's, and none of the server's."""


class _Server:
    """What is known of one of them. Pure: it is told the time."""

    def __init__(self, driver: Driver, name: str) -> None:
        self.driver = driver
        self.name = name
        self.calls = 0
        """Calls under way here, those that cool down included."""
        self.well: bool | None = None
        """What it said of itself when it was last asked; None: nothing, in time."""
        self._says_unwell = False
        self._failures = 0
        self._failed_at = 0.0
        self.rests_until = 0.0

    def usable(self, now: float) -> bool:
        """Whether it may be asked before those that may not."""
        return not self._says_unwell and now >= self.rests_until

    def begin(self, now: float) -> None:
        """Note that it is called; after a failure by one call alone, until that is decided."""
        self.calls += 1
        if self._failures:
            self.rests_until = now + self._rest_s

    def succeeded(self, began_at: float) -> None:
        """Note that a call was answered, unless it is older than the last failure."""
        if began_at >= self._failed_at:
            self._failures = 0
            self.rests_until = 0.0

    def failed(self, now: float, *, began_at: float) -> bool:
        """Note that a call failed; False if it says nothing new, being older than a failure."""
        if began_at < self._failed_at:
            return False
        self._failures += 1
        self._failed_at = now
        self.rests_until = now + self._rest_s
        return True

    def said(self, well: bool | None, now: float) -> None:
        """Note what it says of itself; if it is well, the next call may try."""
        self.well = well
        if well is not None:
            self._says_unwell = not well
        if well:
            self.rests_until = min(self.rests_until, now)

    @property
    def _rest_s(self) -> float:
        return min(FIRST_REST_S * 2.0 ** min(self._failures - 1, 20), MAX_REST_S)


class Servers:
    """Asks the least busy of several servers; implements `llm.client.Driver`.

    Each gets at most `max_calls` calls at once from here; who finds all of them full waits. What
    failed before the first byte of a reply is asked of another, and what began to be replied never.
    A server that failed rests, longer each time, and is asked again by a single call, or as soon
    as it says that it is well. If none is left that is well, all others are asked as well.

    After a call that may have left its server at work, that one counts as busy for another
    `cool_down_s` seconds, so others are asked first. `passed_on` hears of each failure that whoever
    asked does not, as another server is asked.
    """

    def __init__(
        self,
        drivers: Sequence[Driver],
        *,
        max_calls: int,
        cool_down_s: float = 0.0,
        passed_on: Callable[[UpstreamError], None] = lambda _: None,
    ) -> None:
        total = len(drivers)
        self._servers = [
            _Server(driver, f"model server {number} of {total}")
            for number, driver in enumerate(drivers, 1)
        ]
        self._max_calls = max_calls
        self._cool_down_s = cool_down_s
        self._passed_on = passed_on
        self._next = 0
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._servers)

    @property
    def answers(self) -> bool:
        """Whether there is one of which nothing bad is known."""
        return any(server.usable(_now()) for server in self._servers)

    def available(self, *, mute_too: bool) -> int:
        """Count those that last said they are well; those too that said nothing, if told so."""
        good = (True, None) if mute_too else (True,)
        return sum(server.well in good for server in self._servers)

    async def stream(
        self, messages: Sequence[PromptMessage], generation: Generation, say: Say
    ) -> Ending:
        """Ask the least busy one for a stream; raises `UpstreamError`."""
        return await self._ask(lambda driver: driver.stream(messages, generation, say))

    async def complete(
        self, messages: Sequence[PromptMessage], generation: Generation, say: Say
    ) -> Ending:
        """Ask the least busy one for a whole reply; raises `UpstreamError`."""
        return await self._ask(lambda driver: driver.complete(messages, generation, say))

    async def healthy(self) -> bool:
        """Ask all how they are; whether one is well.

        Raises if none is, and not all have answered: `UpstreamTimeout` if one of them is mute.
        """
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(self._look_at(server)) for server in self._servers]
        self._wake()
        errors = [error for task in asked if (error := task.result()) is not None]
        if any(server.well for server in self._servers):
            return True
        if errors:
            raise next((e for e in errors if isinstance(e, UpstreamTimeout)), errors[0])
        return False

    async def aclose(self) -> None:
        """Close every connection that is left."""
        for server in self._servers:
            await server.driver.aclose()

    async def _look_at(self, server: _Server) -> UpstreamError | None:
        try:
            server.said(await server.driver.healthy(), _now())
        except UpstreamTimeout as error:
            # Mute: midm is while it generates, for whomever.
            server.said(None, _now())
            return error
        except UpstreamError as error:
            server.said(False, _now())
            return error
        return None

    async def _ask(self, ask: Callable[[Driver], Awaitable[Ending]]) -> Ending:
        untried = list(self._servers)
        while True:
            server = await self._take(untried)
            untried.remove(server)
            began_at = _now()
            cool_down_s = 0.0
            try:
                ending = await ask(server.driver)
                server.succeeded(began_at)
                return ending
            except BaseException as error:
                cool_down_s = self._cool_down_s if left_at_work(error) else 0.0
                self._note(server, error, began_at)
                if not (untried and isinstance(error, UpstreamError) and _not_begun(error)):
                    raise
                self._passed_on(error)
            finally:
                self._give_back(server, cool_down_s)

    async def _take(self, untried: list[_Server]) -> _Server:
        while (server := self._choose(untried)) is None:
            self._changed.clear()
            # That a server has rested is nothing that happens: nobody else would say so.
            rested_s = _next_rested_s(untried, _now())
            timer = asyncio.get_running_loop().call_later(rested_s, self._wake)
            try:
                await self._changed.wait()
            finally:
                timer.cancel()
        self._next = self._servers.index(server) + 1
        server.begin(_now())
        return server

    def _choose(self, untried: list[_Server]) -> _Server | None:
        """Find the one to ask now; None if all that could be asked have their fill."""
        now = _now()
        usable = [server for server in untried if server.usable(now)]
        if not usable:
            # Nothing better is left: whoever has rested longest.
            usable = sorted(untried, key=lambda server: server.rests_until)
            return next((each for each in usable if each.calls < self._max_calls), None)
        least = min(usable, key=lambda server: (server.calls, self._turn_of(server)))
        return least if least.calls < self._max_calls else None

    def _turn_of(self, server: _Server) -> int:
        return (self._servers.index(server) - self._next) % len(self._servers)

    def _note(self, server: _Server, error: BaseException, began_at: float) -> None:
        if not isinstance(error, UpstreamError) or isinstance(error, _SAYS_NOTHING):
            return
        now = _now()
        if server.failed(now, began_at=began_at):
            rests_s = server.rests_until - now
            kind = type(error).__name__
            logger.warning("%s rests for %.0f s: %s: %s", server.name, rests_s, kind, error)

    def _give_back(self, server: _Server, cool_down_s: float) -> None:
        if cool_down_s > 0:
            asyncio.get_running_loop().call_later(cool_down_s, self._free, server)
        else:
            self._free(server)

    def _free(self, server: _Server) -> None:
        server.calls -= 1
        self._wake()

    def _wake(self) -> None:
        self._changed.set()


def _not_begun(error: UpstreamError) -> bool:
    """Whether a call came to nothing before its server had begun to reply."""
    return isinstance(error, NoConnection) or (
        isinstance(error, UpstreamUnavailable) and not error.replied
    )


def _next_rested_s(servers: Sequence[_Server], now: float) -> float:
    """In how many seconds the next of these has rested; `MAX_REST_S` if none of them rests."""
    rests = (server.rests_until - now for server in servers if server.rests_until > now)
    return min(rests, default=MAX_REST_S)


def _now() -> float:
    return asyncio.get_running_loop().time()
