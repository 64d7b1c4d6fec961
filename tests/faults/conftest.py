"""What the fault tests share."""

import pytest

from tests.faults.nodes import Servers
from tests.gateway.conftest import _no_settings_from_outside, gateway, model

__all__ = ["_no_settings_from_outside", "gateway", "model"]


@pytest.fixture
def servers(postgres_url: str, redis_url: str, redis_prefix: str) -> Servers:
    """A database, and a part of a Redis, of this one test."""
    return Servers(postgres_url, redis_url, redis_prefix)
