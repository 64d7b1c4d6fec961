"""The link between this node and Redis: commands on one connection, subscriptions on another.

Both stand or fall together, so that there is one answer to whether Redis is there. A lost link is
made again for ever; what was asked meanwhile fails at once. Nothing is retried behind anybody's
back: whoever asks learns that an answer is missing, and knows best what that means.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import RedisError

from gateway.nodes.asking import ANSWER_TICKS, Argument, Asking, Call, Script, ServerLost
from gateway.nodes.away import BrokerAway, ScriptFailed
from gateway.nodes.hearing import Ears, Heard, Hearing, Stands, nothing

__all__ = ["BrokerAway", "Call", "Link", "LinkTimes", "Script", "ScriptFailed", "open_link"]

log = logging.getLogger(__name__)

MAX_ENTRIES = 512


@dataclass(frozen=True)
class LinkTimes:
    """How long to wait for what, in seconds."""

    connect_s: float = 1.0
    answer_s: float = 2.0
    first_retry_s: float = 0.1
    last_retry_s: float = 1.0


class Link:
    """Made by `open_link`.

    What asks raises `BrokerAway` and nothing else of Redis, within about `answer_s`. Cancelling
    stops the waiting; what was asked may be done all the same.
    """

    def __init__(self, pool: ConnectionPool, *, prefix: str, node: str, times: LinkTimes) -> None:
        self.prefix = prefix
        self.node = node
        self.times_connected = 0
        """How often the server was reached: where it differs, something may have been missed."""
        self._pool = pool
        self._times = times
        self._asking: Asking | None = None
        self._up = False
        self._ears = Ears()
        self._when_up: list[Callable[[], None]] = []
        self._tried = asyncio.Event()
        self._told_away = False

    @property
    def up(self) -> bool:
        """Whether the server answers and all subscriptions stand."""
        return self._up

    def key(self, name: str) -> str:
        """Name a key, or a channel, of this deployment."""
        return f"{self.prefix}:{name}"

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Run one script; raises `BrokerAway`, as `ScriptFailed` if it was the script's fault."""
        [answer] = await self.run_all([Call(script, keys, args)])
        if isinstance(answer, ScriptFailed):
            raise answer
        return answer

    async def run_all(self, calls: Sequence[Call]) -> list[Any]:
        """Run scripts in order, in one go; a script's own failure is in its place.

        Raises `BrokerAway`: none, some or all of them may have been run.
        """
        return await self._connected().call(calls) if calls else []

    async def get_all(self, keys: Sequence[str]) -> list[str | None]:
        """Read strings, None where there is none; raises `BrokerAway`."""
        if not keys:
            return []
        values: list[str | None] = await self._ask("MGET", *keys)
        return values

    async def entries(self, key: str, after: str) -> list[tuple[str, dict[str, str]]]:
        """Read at most 512 entries of a stream that follow `after`, the id of one or empty.

        Raises `BrokerAway`.
        """
        since = f"({after}" if after else "-"
        found = await self._ask("XRANGE", key, since, "+", "COUNT", MAX_ENTRIES)
        return [
            (entry, dict(zip(fields[::2], fields[1::2], strict=True))) for entry, fields in found
        ]

    def subscribe(self, channel: str, heard: Heard, stands: Stands = nothing) -> None:
        """Hear a channel from soon on, for as long as it is not unsubscribed.

        `heard` gets each message; `stands` is called whenever the subscription has been made, for
        the first time or again: what is published from then on will be heard.
        """
        self._ears.subscribe(channel, heard, stands)

    def unsubscribe(self, channel: str) -> None:
        """Hear nothing of a channel any more."""
        self._ears.unsubscribe(channel)

    def when_up(self, call: Callable[[], None]) -> None:
        """Be called each time the link is made from now on, subscriptions standing."""
        self._when_up.append(call)

    async def _ask(self, *command: Argument) -> Any:
        [answer] = await self._connected().ask(command)
        if isinstance(answer, RedisError):
            raise BrokerAway(str(answer))
        return answer

    def _connected(self) -> Asking:
        if self._asking is None:
            raise BrokerAway("Redis is away")
        return self._asking

    # The task that keeps the link

    async def _keep(self) -> None:
        """Make the link, again and again, for ever."""
        wait_s = self._times.first_retry_s
        while True:
            times_connected = self.times_connected
            try:
                await self._serve()
            except* (RedisError, OSError, ServerLost, TimeoutError) as errors:
                self._mourn(_first(errors))
            except* Exception:  # whatever it is: without a link this node is of little use
                log.exception("the link to Redis broke")
            finally:
                self._tried.set()
            if self.times_connected != times_connected:
                wait_s = self._times.first_retry_s
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, self._times.last_retry_s)

    async def _serve(self) -> None:
        """Make the link and see it through until something is wrong; it always raises."""
        async with AsyncExitStack() as stack:
            asking = Asking(await stack.enter_async_context(self._connection()))
            stack.callback(asking.end)
            ears = await stack.enter_async_context(self._connection())
            hearing = Hearing(ears, self._ears, self._gain)
            self._asking = asking
            self.times_connected += 1
            stack.callback(self._lose)
            loops = (asking.send, asking.listen, hearing.send, hearing.listen)
            async with asyncio.TaskGroup() as tasks:
                _ = [tasks.create_task(loop()) for loop in loops]
                await self._tick(asking, hearing)

    async def _tick(self, asking: Asking, hearing: Hearing) -> None:
        while True:
            await asyncio.sleep(self._times.answer_s / ANSWER_TICKS)
            asking.tick()
            hearing.tick()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AbstractConnection]:
        # Neither this nor `connect` has type hints.
        connection: AbstractConnection = cast(Any, self._pool).make_connection()
        transport: asyncio.WriteTransport | None = None
        try:
            async with asyncio.timeout(self._times.connect_s + self._times.answer_s):
                await cast(Any, connection).connect()
            transport = _transport_of(connection)
            # From now on the ticks say what takes too long. A timeout of redis-py's own is a task
            # for each write (Python 3.11), and closes the connection under a reader.
            connection.socket_timeout = None
            yield connection
        finally:
            if transport is not None:
                transport.abort()
            await connection.disconnect(nowait=True)

    def _gain(self) -> None:
        self._up = True
        self._tried.set()
        if self._told_away:
            self._told_away = False
            log.warning("Redis is back")
        for call in self._when_up:
            try:
                call()
            except Exception:  # whatever it is, the link is not to blame
                log.exception("the link was made, and somebody could not deal with it")

    def _lose(self) -> None:
        self._up = False
        self._asking = None

    def _mourn(self, error: BaseException) -> None:
        if not self._told_away:
            self._told_away = True
            log.warning("Redis is away: %s: %s", type(error).__name__, error)


@asynccontextmanager
async def open_link(
    url: str, *, prefix: str, node: str, times: LinkTimes | None = None
) -> AsyncIterator[Link]:
    """Keep a link to a Redis server until the context ends; `node` names this process in it.

    Begins once the first attempt to connect has succeeded or failed: a server that is away is no
    error, it is waited for. Raises `ValueError` if `url` is none.
    """
    times = times or LinkTimes()
    link = Link(_pool(url, times), prefix=prefix, node=node, times=times)
    # No task group: that would wrap whatever the server fails with in an ExceptionGroup.
    keeper = asyncio.create_task(link._keep())
    try:
        await link._tried.wait()
        yield link
    finally:
        # Again and again: a task group that fails in that moment swallows it (Python 3.11).
        while not keeper.done():
            keeper.cancel()
            await asyncio.wait([keeper], timeout=0.1)


def check_url(url: str) -> None:
    """Raise `ValueError`, which does not quote it, if no link can be made of a URL."""
    try:
        cast(Any, _pool(url, LinkTimes())).make_connection()
    except TypeError:  # of an option that there is not
        raise ValueError("not a URL of Redis: it has options that nobody knows") from None


def _pool(url: str, times: LinkTimes) -> ConnectionPool:
    """Read a URL; the pool only makes connections from it, and never holds any."""
    try:
        pool = ConnectionPool.from_url(url)
    except ValueError:
        # The error may quote a part of the password.
        raise ValueError("not a URL of Redis: redis://, rediss:// or unix://") from None
    # Not as arguments of `from_url`: what the URL says would win over them.
    pool.connection_kwargs |= {
        "protocol": 2,
        "decode_responses": True,
        "encoding_errors": "replace",
        "socket_connect_timeout": times.connect_s,
        "socket_timeout": times.answer_s,
        "health_check_interval": 0,
        "retry_on_timeout": False,
        "driver_info": None,
    }
    return pool


def _transport_of(connection: AbstractConnection) -> asyncio.WriteTransport | None:
    """Find what can be aborted.

    Closing waits, in the background and for as long as the server likes, until everything is
    written; and redis-py closes, and forgets what it closes, whenever a read is cancelled.
    """
    # Private to redis-py, and pinned by the tests of closing.
    writer: asyncio.StreamWriter | None = connection._writer
    return writer.transport if writer is not None else None


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
