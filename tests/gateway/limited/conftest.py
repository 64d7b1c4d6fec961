from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from gateway.settings import Settings
from tests.gateway.harness import Gateway, in_process, on_sockets, settings_for
from tests.gateway.limited.visitors import Begin, watched
from tests.gateway.nodes.conftest import member
from tests.llm.scripted import ScriptedModel

__all__ = ["member"]


@pytest.fixture
def limited(tmp_path: Path, model: ScriptedModel) -> Begin:
    """Begin a gateway with limits; nobody may sit in it when it ends."""

    def begin(**limits: Any) -> AbstractAsyncContextManager[Gateway]:
        return watched(in_process(_settings(tmp_path, model, limits)))

    return begin


@pytest.fixture
def served_limited(tmp_path: Path, model: ScriptedModel) -> Begin:
    """Begin a gateway with limits, on a port of 127.0.0.1; nobody may sit in it when it ends."""

    def begin(**limits: Any) -> AbstractAsyncContextManager[Gateway]:
        return watched(on_sockets(_settings(tmp_path, model, limits)))

    return begin


def _settings(directory: Path, model: ScriptedModel, limits: dict[str, Any]) -> Settings:
    # Behind a proxy it has to be told that whoever proves nothing may come in, where that is so.
    anonymous = not limits.get("api_keys")
    options = {"trusted_proxies": "127.0.0.1", "allow_anonymous": anonymous, **limits}
    return settings_for(directory / "chat.db", model.url, **options)
