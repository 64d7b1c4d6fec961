"""What makes a gateway one of many: its name, its link to the others, what it shares with them."""

import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway.brokers.redis import RedisBroker, open_redis_broker
from gateway.nodes.buckets import SharedBuckets
from gateway.nodes.link import open_link
from gateway.nodes.queue import SharedQueue, open_shared_queue
from gateway.nodes.tickets import RedisTickets
from gateway.nodes.turnstile import Rules
from gateway.settings import Settings


@dataclass(frozen=True)
class Membership:
    """One node among many."""

    node: str
    broker: RedisBroker
    admission: SharedQueue
    buckets: SharedBuckets
    tickets: RedisTickets


@asynccontextmanager
async def join(settings: Settings) -> AsyncIterator[Membership]:
    """Take part; the others need not be there, nor Redis, for that."""
    node = new_node(settings.node_name)
    async with (
        open_link(settings.broker_url, prefix=settings.broker_prefix, node=node) as link,
        open_redis_broker(link) as broker,
        open_shared_queue(
            link, Rules(max_calls=settings.max_calls, max_waiting=settings.llm_max_waiting)
        ) as admission,
    ):
        yield Membership(node, broker, admission, SharedBuckets(link), RedisTickets(link))


def new_node(name: str) -> str:
    """Name this run of this process; no other ever has the same name."""
    return f"{name or socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
