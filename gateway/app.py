"""The application: its parts, their lifetimes, its routes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.routing import Route, WebSocketRoute

from gateway import rest
from gateway.brokers.base import Broker
from gateway.brokers.memory import MemoryBroker
from gateway.health import Probe
from gateway.house import House
from gateway.nodes.keeper import Keeper
from gateway.origins import Cors, Origins
from gateway.problems import on_client_gone, on_error, on_http_error
from gateway.run import Ports, TurnLimits
from gateway.settings import Settings
from gateway.turns import Retries, Turns
from gateway.websocket import PATH, websocket_endpoint
from llm.admission import Admission
from llm.circuit import Circuit
from llm.client import Driver, Generation, Patience
from llm.midm import Midm
from llm.prompt import ContextLimits
from llm.queue import Queue
from llm.simulator import SimulatorSettings, serve_simulator
from protocol.errors import Refusal
from storage import sessions
from storage.database import Database, open_database
from storage.migrations import migrate
from storage.operations import StorageError
from storage.times import rfc3339

log = logging.getLogger(__name__)

SWEEP_EVERY_S = 3_600.0
ALL = 2**31 - 1

ROUTES = [
    Route("/", rest.index),
    # The server leads there past the layers (`short_cut`); who mounts the application comes here.
    WebSocketRoute(PATH, websocket_endpoint),
    Route("/api/sessions", rest.create_session, methods=["POST"]),
    Route("/api/sessions/{session_id}", rest.session, methods=["GET", "DELETE"]),
    Route("/api/sessions/{session_id}/messages", rest.get_messages),
    Route("/api/sessions/{session_id}/events", rest.get_events),
    Route("/api/sessions/{session_id}/cancel", rest.cancel, methods=["POST"]),
    Route("/api/chat", rest.chat, methods=["POST"]),
    Route("/api/chat/stream", rest.chat_stream, methods=["POST"]),
    Route("/api/health", rest.health),
    Route("/readyz", rest.readiness),
]


def create_app(settings: Settings) -> Starlette:
    """Compose the gateway; nothing is opened before its lifespan begins."""
    origins = Origins(settings.cors_origins, host=settings.host)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with open_house(settings, origins) as house:
            app.state.house = house
            yield

    return Starlette(
        routes=ROUTES,
        lifespan=lifespan,
        middleware=[Middleware(Cors, origins=origins)],
        exception_handlers={
            HTTPException: on_http_error,
            Refusal: on_error,
            StorageError: on_error,
            ClientDisconnect: on_client_gone,
            Exception: on_error,
        },
    )


@asynccontextmanager
async def open_house(settings: Settings, origins: Origins) -> AsyncIterator[House]:
    """Open everything in order, and close it in the opposite one."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(_database(settings))
        await migrate(database)
        driver = await stack.enter_async_context(_driver(settings))
        around = await stack.enter_async_context(_surroundings(settings))
        circuit = Circuit()
        news = asyncio.Event()
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        turns = Turns(
            ports=Ports(
                database=database,
                broker=around.broker,
                driver=driver,
                circuit=circuit,
                limits=_turn_limits(settings),
                node=around.node,
                look=news.set,
            ),
            admission=around.admission,
            defaults=_generation(settings),
            retries=Retries(settings.max_attempts, settings.rerun_within_s),
            tasks=tasks,
        )
        probe = Probe(driver=driver, circuit=circuit, admission=around.admission, database=database)
        house = House(
            settings=settings,
            node=around.node,
            database=database,
            broker=around.broker,
            admission=around.admission,
            turns=turns,
            probe=probe,
            origins=origins,
        )
        if around.node is None:
            await turns.take_up(most=ALL)
        chores = [tasks.create_task(chore) for chore in _chores(house, news)]
        try:
            yield house
        finally:
            await turns.drain(within_s=0)
            for chore in chores:
                chore.cancel()


@dataclass(frozen=True)
class Surroundings:
    """What a gateway needs to know of others like it; alone, it has no name."""

    broker: Broker
    admission: Admission
    node: str | None = None


@asynccontextmanager
async def _surroundings(settings: Settings) -> AsyncIterator[Surroundings]:
    if not settings.shared:
        queue = Queue(max_calls=settings.max_calls, max_waiting=settings.llm_max_waiting)
        yield Surroundings(MemoryBroker(), queue)
        return
    # Only here: a gateway that is alone needs none of its packages.
    from gateway.nodes.membership import join

    async with join(settings) as member:
        yield Surroundings(member.broker, member.admission, member.node)


def _database(settings: Settings) -> AbstractAsyncContextManager[Database]:
    if settings.shared:
        return open_database(settings.database_url, connections=settings.database_connections)
    return open_database(settings.database_path)


def _chores(house: House, news: asyncio.Event) -> Iterator[Coroutine[object, object, None]]:
    yield house.probe.run()
    if house.node is not None:
        keeper = Keeper(
            node=house.node,
            turns=house.turns,
            broker=house.broker,
            database=house.database,
            news=news,
        )
        yield keeper.run()
    if house.settings.session_timeout_hours:
        yield _sweep(house)


@asynccontextmanager
async def _driver(settings: Settings) -> AsyncIterator[Driver]:
    async with AsyncExitStack() as stack:
        url = settings.llm_server_url
        if settings.simulated:
            url = await stack.enter_async_context(serve_simulator(SimulatorSettings()))
        patience = Patience(
            connect_s=settings.llm_connect_timeout_s,
            first_token_s=settings.llm_first_token_timeout_s,
            silence_s=settings.llm_silence_timeout_s,
            reply_s=settings.llm_reply_timeout_s,
        )
        driver = Midm(url, patience=patience)
        stack.push_async_callback(driver.aclose)
        yield driver


def _generation(settings: Settings) -> Generation:
    return Generation(
        max_new_tokens=settings.default_max_tokens,
        temperature=settings.default_temperature,
        do_sample=settings.default_do_sample,
    )


def _turn_limits(settings: Settings) -> TurnLimits:
    return TurnLimits(
        turn_s=settings.turn_timeout_s,
        cool_down_s=settings.cool_down_s,
        context=ContextLimits(settings.max_context_messages, settings.max_context_chars),
        system_prompt=settings.system_prompt,
    )


async def _sweep(house: House) -> None:
    """Delete, now and then, the sessions that nobody has used for long."""
    lifetime = timedelta(hours=house.settings.session_timeout_hours)
    while True:
        await sweep(house.database, house, before=rfc3339(datetime.now(UTC) - lifetime))
        await asyncio.sleep(SWEEP_EVERY_S)


async def sweep(database: Database, house: House, *, before: str) -> None:
    """Delete the sessions not used since a time; to be read, on any node, is to be used."""
    try:
        for session_id in house.broker.watched():
            await database.write(sessions.note_use(session_id))
        expired = await database.read(sessions.expired(before))
    except StorageError as error:
        log.warning("expired sessions could not be looked for: %s", error)
        return
    for session_id in expired:
        try:
            await house.turns.delete_session(session_id, unused_since=before)
        except Refusal as refusal:
            # Somebody uses it again, or another node was quicker; or storage is in trouble.
            log.info("session %s is not deleted: %s", session_id, refusal)
