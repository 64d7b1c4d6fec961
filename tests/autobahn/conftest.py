import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from gateway.listening import PeerLimits
from tests.gateway.peers import Peer, Served, serving


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """A gateway for all cases of a module."""
    async with serving(tmp_path_factory.mktemp("autobahn"), PeerLimits(close_s=1.0)) as served:
        yield served


@pytest.fixture
async def peer(served: Served) -> AsyncIterator[Peer]:
    """A WebSocket that has been greeted; when it has gone, nothing of it is left."""
    async with Peer(served.url, room=1 << 20) as peer:
        await peer.open()
        yield peer
    await served.all_gone()


@pytest.fixture(autouse=True)
def _nothing_to_complain_of(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    logging.getLogger("uvicorn.error").addFilter(_is_not_1007)
    yield
    records = caplog.get_records("call")
    assert [r.getMessage() for r in records if r.levelno >= logging.WARNING] == []


def _is_not_1007(record: logging.LogRecord) -> bool:
    # What `set_up_logging` leaves out, too.
    return not record.getMessage().startswith("Invalid UTF-8")
