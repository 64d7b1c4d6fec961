from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from gateway.settings import Settings
from tests.gateway.harness import Gateway, in_process
from tests.llm.scripted import ScriptedModel


@pytest.fixture
def member(postgres_url: str, redis_url: str, redis_prefix: str, model: ScriptedModel) -> Settings:
    """How each node of a test is run."""
    return Settings(
        _env_file=None,
        port=0,
        database_url=postgres_url,
        broker_url=redis_url,
        broker_prefix=redis_prefix,
        database_connections=3,
        llm_server_url=model.url,
        llm_max_concurrency=4,
        llm_cool_down_s=0,
        drain_seconds=0,
    )


@pytest.fixture
async def nodes(member: Settings) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """Two gateways that share a database and a broker."""
    async with AsyncExitStack() as stack:
        here, there = [await stack.enter_async_context(in_process(member)) for _ in range(2)]
        yield here, there
