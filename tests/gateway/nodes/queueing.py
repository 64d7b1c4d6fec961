"""A deployment of queues in one process: nodes that come, go and die, and who looks at it all."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from itertools import count

import anyio
import redis

from gateway.nodes.link import Link, LinkTimes, open_link
from gateway.nodes.queue import SharedPlace, SharedQueue, open_shared_queue
from gateway.nodes.turnstile import Rules

WITHIN_S = 10.0
TIMES = LinkTimes(connect_s=0.5, answer_s=0.5, first_retry_s=0.02, last_retry_s=0.1)
RULES = Rules(
    max_calls=1,
    max_waiting=100,
    lease_s=1.2,
    renew_s=0.3,
    look_s=0.1,
    quiet_s=0.6,
)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what nobody announces."""
    with anyio.fail_after(WITHIN_S):
        while not condition():  # noqa: ASYNC110 -- there is no event for it
            await asyncio.sleep(0.005)


class Standing:
    """What one waiting place was told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int | None]] = []
        self.at: list[float] = []
        self.news = anyio.Event()

    def __call__(self, position: int, eta_ms: int | None) -> None:
        self.told.append((position, eta_ms))
        self.at.append(asyncio.get_running_loop().time())
        self.news.set()
        self.news = anyio.Event()

    @property
    def positions(self) -> list[int]:
        return [position for position, _ in self.told]


async def admitted(*places: SharedPlace) -> None:
    """Wait until places are admitted."""
    with anyio.fail_after(WITHIN_S):
        for place in places:
            await place.admitted(Standing())


@dataclass(eq=False)
class Node:
    """A queue with a link of its own; as a process, it can be ended in two ways, or stand still."""

    link: Link
    queue: SharedQueue
    _open_link: AsyncExitStack
    _open_queue: AsyncExitStack

    async def close(self) -> None:
        """End it in order."""
        await self._open_queue.aclose()
        await self._open_link.aclose()

    async def crash(self) -> None:
        """End it without a word to anybody."""
        await self._open_link.aclose()
        await self._open_queue.aclose()

    async def settle(self) -> None:
        """Wait until it has told and heard everything."""
        self.queue._renew_soon()
        await until(lambda: not self.queue._released and math.isfinite(self.queue._due_at))

    def lose_announcements(self) -> None:
        """Let it hear nothing from now on."""
        self.link.unsubscribe(self.channel)

    @property
    def channel(self) -> str:
        return self.queue._turnstile.channel(self.link.node)


class Deployment:
    """Nodes that share one Redis, and a plain client to look into it."""

    def __init__(self, url: str, prefix: str, stack: AsyncExitStack, client: "redis.Redis") -> None:
        self._url = url
        self._prefix = prefix
        self._stack = stack
        self._client = client
        self._numbers = count(1)

    async def node(self, rules: Rules = RULES, **others: float) -> Node:
        """Start a node."""
        link_open, queue_open = AsyncExitStack(), AsyncExitStack()
        name = f"node{next(self._numbers)}"
        link = await link_open.enter_async_context(
            open_link(self._url, prefix=self._prefix, node=name, times=TIMES)
        )
        self._stack.push_async_callback(link_open.aclose)
        opened = open_shared_queue(link, replace(rules, **others))  # type: ignore[arg-type]
        queue = await queue_open.enter_async_context(opened)
        self._stack.push_async_callback(queue_open.aclose)
        node = Node(link, queue, link_open, queue_open)
        await node.settle()
        return node

    @property
    def calls(self) -> list[str]:
        """Who calls, as Redis has it, whether or not it has lapsed."""
        return self._members("calls")

    @property
    def waiting(self) -> list[str]:
        """Who waits, in order."""
        return self._members("waiting")

    def _members(self, of: str) -> list[str]:
        found: list[str] = self._client.zrange(self.key(of), 0, -1)  # type: ignore[assignment]
        return found

    def key(self, name: str) -> str:
        return f"{self._prefix}:{{queue}}:{name}"

    @property
    def client(self) -> "redis.Redis":
        return self._client


@contextmanager
def plain_client(url: str) -> Iterator["redis.Redis"]:
    client = redis.Redis.from_url(url, decode_responses=True)
    try:
        yield client
    finally:
        client.close()


@asynccontextmanager
async def deployed(url: str, prefix: str) -> AsyncIterator[Deployment]:
    """Whatever is started in it is ended with it."""
    with plain_client(url) as client:
        async with AsyncExitStack() as stack:
            yield Deployment(url, prefix, stack, client)
