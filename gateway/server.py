"""The server process: uvicorn, told what this gateway needs of it, and a stop that drains."""

import asyncio
import logging
import os
import random
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette

from gateway.app import create_app
from gateway.house import House
from gateway.settings import Settings
from protocol.server_frames import Reconnect

log = logging.getLogger(__name__)

RECONNECT_WITHIN_MS = 5_000
PING_EVERY_S = 20.0
PONG_WITHIN_S = 20.0
CLOSE_WITHIN_S = 5
BACKLOG = 2_048
KILLED = 137


class GatewayServer(uvicorn.Server):
    """Drains before it stops: uvicorn alone closes every socket the moment it is told to."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.app = create_app(settings)
        super().__init__(_config(self.app, settings))
        self._drain: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port it listens on, once it has started."""
        port: int = self.servers[0].sockets[0].getsockname()[1]
        return port

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals in the loop; uvicorn's own would end the process with -15."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Drain and stop; told a second time, end at once."""
        if self._drain is not None:
            os._exit(KILLED)
        self._drain = asyncio.get_running_loop().create_task(self._drain_and_exit())

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening and say so."""
        await super().startup(sockets)
        _say_hello(self.settings, self.port)

    async def _drain_and_exit(self) -> None:
        house: House = self.app.state.house
        log.info("stopping: %d turns are open", house.turns.running)
        house.turns.refuse_new()
        for connection in tuple(house.connections):
            after_ms = random.randint(0, RECONNECT_WITHIN_MS)
            connection.say(Reconnect(reason="restart", after_ms=after_ms))
        await house.turns.drain(self.settings.drain_seconds)
        house.broker.close()
        self.should_exit = True


def serve(settings: Settings) -> None:
    """Run the gateway until it is told to stop."""
    server = GatewayServer(settings)
    server.run()


def _config(app: Starlette, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        # The newer of uvicorn's WebSocket protocols: a quarter less CPU for each frame.
        ws="websockets-sansio",
        # Deflate costs 12 microseconds a frame and 35 KB a connection; tokens hardly shrink.
        ws_per_message_deflate=False,
        ws_max_size=settings.max_frame_bytes,
        ws_ping_interval=PING_EVERY_S,
        ws_ping_timeout=PONG_WITHIN_S,
        timeout_graceful_shutdown=CLOSE_WITHIN_S,
        backlog=BACKLOG,
        access_log=False,
        log_config=None,
        server_header=False,
    )


def _say_hello(settings: Settings, port: int) -> None:
    at = f"{settings.host}:{port}"
    model = settings.llm_server_url or "SIMULATED (set LLM_SERVER_URL to use a real model)"
    log.info("model: %s", model)
    log.info("database: %s", settings.database_path.absolute())
    log.info("listening on http://%s", at)
    log.info("try it: npx wscat -c ws://%s/ws  and type 안녕하세요", at)
