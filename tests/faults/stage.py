"""Where a play takes place: a gateway without sockets, and the model server behind it."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import httpx
from anyio.abc import TaskGroup
from httpx_ws.transport import ASGIWebSocketTransport
from starlette.applications import Starlette

from gateway.app import create_app
from tests.faults.session import Turn
from tests.gateway.harness import WITHIN_S, Gateway, Json, settings_for
from tests.llm.scripted import ScriptedModel

_STATUS = {"session_not_found": 404, "turn_not_found": 404, "upstream_error": 502}


@dataclass
class Stage:
    """A gateway, the model server behind it, and whatever runs while the play is on."""

    gateway: Gateway
    app: Starlette
    model: ScriptedModel
    tasks: TaskGroup

    def post(self, body: Json, turn: Turn | None) -> "Pending":
        """Ask for a whole reply without waiting for it."""
        pending = Pending(turn)

        async def post() -> None:
            pending.response = await self.gateway.http.post("/api/chat", json=body)
            pending.answered.set()

        self.tasks.start_soon(post)
        return pending


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """Open everything for one play."""
    with tempfile.TemporaryDirectory() as folder:
        async with ScriptedModel() as model:
            settings = settings_for(Path(folder) / "chat.db", model.url)
            app = create_app(settings)
            transport = ASGIWebSocketTransport(app)
            async with (
                app.router.lifespan_context(app),
                httpx.AsyncClient(
                    transport=transport, base_url="http://127.0.0.1", timeout=WITHIN_S
                ) as http,
                anyio.create_task_group() as tasks,
            ):
                gateway = Gateway(http, app.state.house, settings.database_path)
                yield Stage(gateway, app, model, tasks)
                tasks.cancel_scope.cancel()


@dataclass
class Pending:
    """A `POST /api/chat` that is being answered; `refused` is the code it is refused with."""

    turn: Turn | None
    refused: str | None = None
    answered: anyio.Event = field(default_factory=anyio.Event)
    response: httpx.Response | None = None

    @property
    def due(self) -> bool:
        """Whether the answer must come now."""
        return self.turn is None or self.turn.over

    async def check(self) -> None:
        """See that it is answered as soon as its turn is over, with what became of that."""
        if not self.due:
            assert not self.answered.is_set(), "answered before the turn was over"
            return
        await self.answered.wait()
        assert self.response is not None
        turn, body = self.turn, self.response.json()
        if self.refused is not None:
            assert_problem(self.response, self.refused)
        elif turn is not None and turn.finish_reason == "error":
            assert_problem(self.response, "upstream_error")
            assert body["turn"] == turn.number
        elif turn is not None:
            assert self.response.status_code == 200
            answer = (body["turn"], body["content"], body["finish_reason"])
            assert answer == (turn.number, turn.text, turn.finish_reason)


def assert_problem(response: httpx.Response, code: str) -> None:
    """An error as REST says it."""
    assert response.headers["content-type"] == "application/problem+json"
    status = _STATUS.get(code, 409)
    assert (response.status_code, response.json()["code"]) == (status, code)
