from collections.abc import AsyncIterator

import pytest

from tests.gateway.brokers.nodes import Nodes, some_nodes


@pytest.fixture
async def nodes(redis_url: str, redis_prefix: str) -> AsyncIterator[Nodes]:
    """Nodes on the server that all tests share."""
    async with some_nodes(redis_url, redis_prefix) as nodes:
        yield nodes
