"""Runs the simulator: inside a loop that is already there, or as a program of its own."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any

import anyio
from uvicorn import Config
from uvicorn.loops.auto import auto_loop_factory
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from llm.simulator.app import create_simulator
from llm.simulator.settings import SimulatorSettings
from llm.simulator.stage import HANG_UP

_STOP_WITHIN_S = 0.5

_logger = logging.getLogger("llm.simulator")


@asynccontextmanager
async def serve_simulator(
    settings: SimulatorSettings, *, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[str]:
    """Serve a simulator inside the running asyncio loop; the context is its base URL.

    It accepts connections from the first moment of the context on. When the context ends, also by
    cancellation, it closes what is open and waits for its calls, at most half a second. Port 0
    takes a free one. Leaves signals and uvicorn's loggers alone, what it has to say goes to the
    logger `llm.simulator`. Raises `OSError` if it cannot listen.
    """
    # uvicorn.Server would install signal handlers, wait in steps of 0.1 s and log an error for
    # every stream it ends; and a log level or access_log=False in Config is set for the whole
    # process, which may be a gateway with a uvicorn of its own.
    config = Config(
        create_simulator(settings),
        http=_Connection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        proxy_headers=False,
        log_config=None,
    )
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: _Connection(config, state, {}), host, port)
    try:
        yield _url(listener)
    finally:
        with anyio.CancelScope(shield=True):
            await _stop(listener, state)


def run_simulator(
    settings: SimulatorSettings, *, host: str = "127.0.0.1", port: int = 8000
) -> None:
    """Serve a simulator until SIGTERM or SIGINT, then return.

    Prints one line when it listens. Belongs to the main thread. Raises `OSError` if it cannot
    listen.
    """
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        runner.run(_serve_until_signalled(settings, host=host, port=port))


async def _serve_until_signalled(settings: SimulatorSettings, *, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with serve_simulator(settings, host=host, port=port) as url:
        print(f"Simulated midm (no model, its answers are made up) listens on {url}", flush=True)
        await stop.wait()


class _Connection(HttpToolsProtocol):
    # The constructor's arguments and `on_message_begin`, `scope`, `logger`, `access_log` and
    # `transport` are uvicorn's private matters; the tests of this module pin them.

    def __init__(self, config: Config, state: ServerState, app_state: dict[str, Any]) -> None:
        super().__init__(config, state, app_state)
        self.logger = _logger
        self.access_log = False

    def on_message_begin(self) -> None:
        super().on_message_begin()
        # uvicorn.Server does this once a second.
        date = (b"date", formatdate(usegmt=True).encode())
        self.server_state.default_headers = [date, *self.config.encoded_headers]
        # close() and not abort(): what was written is sent first, as by a process that is killed.
        self.scope["extensions"] = {HANG_UP: {"close": self.transport.close}}


async def _stop(listener: asyncio.Server, state: ServerState) -> None:
    listener.close()
    # Calls end because their client is gone. A cancelled one would be logged by uvicorn as a
    # failure; closing would wait for clients that do not read.
    for connection in list(state.connections):
        connection.transport.abort()
    if state.tasks:
        await asyncio.wait(state.tasks, timeout=_STOP_WITHIN_S)
    for task in list(state.tasks):
        task.cancel()
    await asyncio.sleep(0)  # aborted transports close in the next turn of the loop


def _url(listener: asyncio.Server) -> str:
    host, port, *_ = listener.sockets[0].getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
