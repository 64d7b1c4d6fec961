from collections.abc import AsyncIterator

import pytest

from tests.hostile.siege import QUICK, Siege, besieged


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def siege(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Siege]:
    """A gateway for all attacks of a module, each of which it must survive whole."""
    async with besieged(tmp_path_factory.mktemp("siege"), QUICK) as siege:
        yield siege
