"""The server process: uvicorn, told what this gateway needs of it, and a stop that drains."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from functools import partial
from ipaddress import ip_address
from typing import cast

import uvicorn
from starlette.applications import Starlette

from gateway.app import create_app
from gateway.greeting import farewell
from gateway.house import House
from gateway.http_connection import ChatHttp
from gateway.limits.addresses import Proxies
from gateway.limits.lobby import Lobby
from gateway.listening import PeerLimits, listening_sockets, raise_open_files
from gateway.secrets import without_secrets
from gateway.settings import Settings
from gateway.sockets import ChatSocket
from gateway.websocket import short_cut
from storage.operations import StorageError

log = logging.getLogger(__name__)

CLOSE_WITHIN_S = 5
BACKLOG = 2_048
KILLED = 137

_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what no browser can open


class CannotStart(Exception):
    """The gateway cannot run here; the text is one line that says why."""


class GatewayServer(uvicorn.Server):
    """Drains before it stops: uvicorn alone closes every socket the moment it is told to."""

    def __init__(self, settings: Settings, limits: PeerLimits | None = None) -> None:
        self.settings = settings
        self.limits = limits = limits or _peer_limits(settings)
        self.app = create_app(settings)
        super().__init__(_config(self.app, settings, limits))
        self.listening = asyncio.Event()
        self._drain: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port it listens on, once it has started."""
        port: int = self.servers[0].sockets[0].getsockname()[1]
        return port

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the application, serve until told to stop, close it; raises `CannotStart`."""
        # The lifespan is ours to run: uvicorn would log a failure of it with its traceback.
        with self.capture_signals(), ExitStack() as bound:
            listeners = _bound(self.settings, self.limits)
            for listener in listeners:
                bound.enter_context(listener)
            async with _opened(self.app):
                await self._serve([*listeners, *(sockets or ())])

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
        self.listening.set()
        _say_hello(self.settings, self.port)

    async def _drain_and_exit(self) -> None:
        house: House | None = getattr(self.app.state, "house", None)
        if house is not None:
            await self._drain_house(house)
        self.should_exit = True

    async def _drain_house(self, house: House) -> None:
        log.info("stopping: %d turns are open", house.turns.running)
        house.turns.refuse_new()
        if house.node is not None:
            # Whoever is told to come back is to find another node.
            for listener in self.servers:
                listener.close()
        for connection in tuple(house.connections):
            connection.say(farewell())
        await house.turns.drain(self.settings.drain_seconds)
        house.broker.close()


def serve(settings: Settings) -> None:
    """Run the gateway until it is told to stop; raises `CannotStart`."""
    raise_open_files()
    GatewayServer(settings).run()


def _peer_limits(settings: Settings) -> PeerLimits:
    return PeerLimits(
        head_s=settings.header_timeout_s,
        body_s=settings.body_timeout_s,
        max_head_bytes=settings.max_header_bytes,
    )


def _bound(settings: Settings, limits: PeerLimits) -> list[socket.socket]:
    try:
        listeners = listening_sockets(settings.host, settings.port, limits)
    except UnicodeError:
        raise CannotStart(f"cannot listen on {settings.host!r}: this is no host name") from None
    except OSError as error:
        raise cannot_listen(settings.host, settings.port, error) from None
    if settings.is_private and not all(map(_is_loopback, listeners)):
        # Names mean what a file or a server says, whatever they look like.
        for listener in listeners:
            listener.close()
        raise CannotStart(f"{settings.host} is not this machine alone; name its address as HOST")
    return listeners


def _is_loopback(listener: socket.socket) -> bool:
    return ip_address(listener.getsockname()[0]).is_loopback


def cannot_listen(host: str, port: int, error: OSError) -> CannotStart:
    """Say why nobody can listen there, in one line."""
    # A name that cannot be found has no errno, and event loops word the others each their way.
    not_found = isinstance(error, socket.gaierror)
    reason = str(error.strerror) if not_found else os.strerror(error.errno or 0)
    return CannotStart(f"cannot listen on {_address(host, port)}: {reason.lower()}")


@asynccontextmanager
async def _opened(app: Starlette) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(app.router.lifespan_context(app))
        except Exception as error:
            if (why := _storage_error(error)) is None:
                raise
            raise CannotStart(str(why)) from None
        yield


def _storage_error(error: Exception) -> StorageError | None:
    while isinstance(error, ExceptionGroup):  # task groups wrap what ends them
        error = error.exceptions[0]
    return error if isinstance(error, StorageError) else None


def _config(app: Starlette, settings: Settings, limits: PeerLimits) -> uvicorn.Config:
    return uvicorn.Config(
        short_cut(app),
        interface="asgi3",
        host=settings.host,
        port=settings.port,
        lifespan="off",
        http=_limited(ChatHttp, limits, lobby=_lobby(settings)),
        # Made of the newer of uvicorn's WebSocket protocols: a quarter less CPU for each frame.
        ws=_limited(ChatSocket, limits),
        # Deflate costs 12 microseconds a frame and 35 KB a connection; tokens hardly shrink.
        ws_per_message_deflate=False,
        ws_max_size=settings.max_frame_bytes,
        ws_ping_interval=limits.ping_every_s,
        ws_ping_timeout=limits.pong_s,
        timeout_graceful_shutdown=CLOSE_WITHIN_S,
        backlog=BACKLOG,
        access_log=False,
        log_config=None,
        server_header=False,
        # Nobody asks where a request comes from; looking for it costs every connection a layer.
        proxy_headers=False,
    )


def _limited(
    protocol: type[ChatHttp] | type[ChatSocket], limits: PeerLimits, **more: Lobby
) -> type[asyncio.Protocol]:
    # uvicorn says that it wants a class; all it does is call it.
    return cast(type[asyncio.Protocol], partial(protocol, limits=limits, **more))


def _lobby(settings: Settings) -> Lobby:
    proxies = Proxies(settings.trusted_proxies)
    return Lobby(per_address=settings.max_connections_per_address, proxies=proxies)


def _say_hello(settings: Settings, port: int) -> None:
    at = _address(settings.host, port)
    log.info("model: %s", _models(settings))
    if settings.shared:
        log.info("database: %s", without_secrets(settings.database_url))
        log.info("broker: %s", without_secrets(settings.broker_url))
    else:
        log.info("database: %s", settings.database_path.absolute())
    log.info("access: %s", _access(settings))
    if settings.allow_anonymous and not (settings.is_private or settings.allowed_hosts):
        log.warning("ALLOWED_HOSTS is not set: pages of any name may use this gateway")
    log.info("listening on http://%s", at)
    here = url_here(settings.host, port)
    key = "" if not settings.authenticates or settings.allow_anonymous else "MIDM_KEY=… "
    log.info(
        "try it: open %s  or, in another terminal: %smidm-gateway chat --url %s", here, key, here
    )


def _models(settings: Settings) -> str:
    if settings.simulated:
        return "SIMULATED (set LLM_SERVER_URL to use a real model)"
    spoken = " by OpenAI's API" if settings.llm_api == "openai" else ""
    return ", ".join(map(without_secrets, settings.llm_servers)) + spoken


def _access(settings: Settings) -> str:
    ways = []
    if settings.api_keys or settings.api_keys_file:
        ways.append("API keys")
    if settings.jwt_issuer:
        ways.append(f"tokens of {settings.jwt_issuer}")
    if not ways or settings.allow_anonymous:
        ways.append("anonymous, on this machine alone" if settings.is_private else "anonymous")
    return "; ".join(ways)


def url_here(host: str, port: int) -> str:
    """Say by which URL somebody on this machine reaches what listens on a host and port."""
    return f"http://{_address(_ANYWHERE.get(host, host), port)}"


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
