from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.settings import Settings
from tests.gateway.harness import Gateway, in_process, on_sockets, settings_for
from tests.llm.scripted import ScriptedModel


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment of the tests sets, a gateway under test does not see it."""
    for name in Settings.model_fields:
        for spelling in (name, name.upper()):
            monkeypatch.delenv(spelling, raising=False)


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    """A model server that says what the test tells it to."""
    async with ScriptedModel() as model:
        yield model


@pytest.fixture
async def gateway(tmp_path: Path, model: ScriptedModel) -> AsyncIterator[Gateway]:
    """A gateway in this process that talks to `model`."""
    async with in_process(settings_for(tmp_path / "chat.db", model.url)) as gateway:
        yield gateway


@pytest.fixture
async def served(tmp_path: Path, model: ScriptedModel) -> AsyncIterator[Gateway]:
    """A gateway on a port of 127.0.0.1 that talks to `model`."""
    async with on_sockets(settings_for(tmp_path / "chat.db", model.url)) as gateway:
        yield gateway
