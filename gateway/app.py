"""The application: its parts, their lifetimes, its routes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect

from gateway.auth.authenticator import Authenticator
from gateway.auth.opening import Chore, open_authenticator
from gateway.auth.tickets import MemoryTickets, Tickets
from gateway.brokers.base import Broker
from gateway.brokers.memory import MemoryBroker
from gateway.chores import chores
from gateway.counting import Counted
from gateway.entrance import Entrance
from gateway.figures import Figures
from gateway.guard import Guard, on_mistake
from gateway.health import Probe
from gateway.hosts import Hosts
from gateway.house import House
from gateway.limits.addresses import Proxies
from gateway.limits.allowance import Allowance, AskLimits
from gateway.limits.buckets import Buckets, MemoryBuckets, Rate
from gateway.limits.occupancy import Occupancy, Seats
from gateway.metrics import registry_of
from gateway.nodes.away import BrokerAway
from gateway.origins import Cors, Origins
from gateway.problems import on_client_gone, on_error, on_http_error
from gateway.routes import ROUTES
from gateway.run import Ports, TurnLimits
from gateway.settings import BadSettings, Settings
from gateway.tracing.base import Tracing, Untraced
from gateway.turns import Retries, Turns
from gateway.upstream import circuit_of, open_driver
from llm.admission import Admission
from llm.client import Generation
from llm.prompt import ContextLimits
from llm.queue import Queue
from protocol.about import VERSION
from protocol.errors import Refusal
from storage.database import Database, open_database
from storage.migrations import migrate
from storage.operations import StorageError

ALL = 2**31 - 1


def create_app(settings: Settings) -> Starlette:
    """Compose the gateway; nothing is opened before its lifespan begins."""
    origins = Origins(settings.cors_origins, host=settings.host)
    hosts = Hosts(settings.allowed_hosts, host=settings.host)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with open_house(settings, origins, hosts) as house:
            app.state.house = house
            app.state.registry = registry_of(house)
            yield

    return Starlette(
        routes=ROUTES,
        lifespan=lifespan,
        middleware=[
            Middleware(Counted, routes=ROUTES),
            Middleware(Guard, origins=origins, hosts=hosts),
            Middleware(Cors, origins=origins),
        ],
        exception_handlers={
            HTTPException: on_http_error,
            Refusal: on_error,
            StorageError: on_error,
            BrokerAway: on_error,
            ClientDisconnect: on_client_gone,
            Exception: on_mistake,
        },
    )


@asynccontextmanager
async def open_house(settings: Settings, origins: Origins, hosts: Hosts) -> AsyncIterator[House]:
    """Open everything in order, and close it in the opposite one; raises `BadSettings`, too."""
    async with AsyncExitStack() as stack:
        figures = Figures()
        database = await stack.enter_async_context(_database(settings, figures))
        await migrate(database)
        driver = await stack.enter_async_context(
            open_driver(settings, passed_on=figures.call_failed)
        )
        around = await stack.enter_async_context(_surroundings(settings))
        authenticator, watches = await stack.enter_async_context(_authenticator(settings, around))
        tracing = await stack.enter_async_context(_tracing(settings, around.node))
        circuit = circuit_of(driver)
        news = asyncio.Event()
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        turns = Turns(
            ports=Ports(
                database=database,
                broker=around.broker,
                driver=driver,
                circuit=circuit,
                limits=_turn_limits(settings),
                figures=figures,
                tracing=tracing,
                node=around.node,
                look=news.set,
            ),
            admission=around.admission,
            defaults=_generation(settings),
            retries=Retries(settings.max_attempts, settings.rerun_within_s),
            allowance=Allowance(_ask_limits(settings), around.buckets),
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
            figures=figures,
            tracing=tracing,
            entrance=Entrance(
                authenticator=authenticator,
                origins=origins,
                hosts=hosts,
                proxies=Proxies(settings.trusted_proxies),
                occupancy=Occupancy(_seats(settings)),
                buckets=around.buckets,
                handshakes=Rate(settings.handshakes_per_minute),
                sessions=Rate(settings.sessions_per_minute),
                tickets=Rate(settings.handshakes_per_minute),
                figures=figures,
            ),
        )
        if around.node is None:
            await turns.take_up(most=ALL)
        at_work = [tasks.create_task(chore) for chore in chores(house, news)]
        at_work += [tasks.create_task(watch()) for watch in watches]
        try:
            yield house
        finally:
            await turns.drain(within_s=0)
            for chore in at_work:
                chore.cancel()


@dataclass(frozen=True)
class Surroundings:
    """What a gateway needs to know of others like it; alone, it has no name."""

    broker: Broker
    admission: Admission
    buckets: Buckets
    tickets: Tickets
    node: str | None = None


@asynccontextmanager
async def _surroundings(settings: Settings) -> AsyncIterator[Surroundings]:
    if not settings.shared:
        queue = Queue(max_calls=settings.max_calls, max_waiting=settings.llm_max_waiting)
        yield Surroundings(MemoryBroker(), queue, MemoryBuckets(), MemoryTickets())
        return
    # Only here: a gateway that is alone needs none of its packages.
    from gateway.nodes.membership import join

    async with join(settings) as member:
        yield Surroundings(
            member.broker, member.admission, member.buckets, member.tickets, member.node
        )


def _database(settings: Settings, figures: Figures) -> AbstractAsyncContextManager[Database]:
    where = settings.database_url if settings.shared else settings.database_path
    return open_database(
        where, connections=settings.database_connections, committed=figures.committed
    )


@asynccontextmanager
async def _tracing(settings: Settings, node: str | None) -> AsyncIterator[Tracing]:
    if not settings.otel_exporter_otlp_endpoint:
        yield Untraced()
        return
    # Only here: who does not trace needs none of its packages.
    from gateway.tracing.otel import open_tracing

    async with open_tracing(
        settings.otel_exporter_otlp_endpoint,
        service=settings.otel_service_name,
        version=VERSION,
        node=node,
        model=settings.model_name,
        server=settings.llm_server_host,
    ) as tracing:
        yield tracing


@asynccontextmanager
async def _authenticator(
    settings: Settings, around: Surroundings
) -> AsyncIterator[tuple[Authenticator, list[Chore]]]:
    async with AsyncExitStack() as stack:
        try:
            opened = await stack.enter_async_context(
                open_authenticator(
                    api_keys=settings.api_keys,
                    api_keys_file=settings.api_keys_file,
                    jwt_issuer=settings.jwt_issuer,
                    jwt_audience=settings.jwt_audience,
                    jwt_secret=settings.jwt_secret,
                    jwt_public_key_file=settings.jwt_public_key_file,
                    jwt_jwks_url=settings.jwt_jwks_url,
                    allow_anonymous=settings.allow_anonymous,
                    default_owner=settings.default_owner,
                    tickets=around.tickets,
                )
            )
        except ValueError as error:
            name, _, says = str(error).partition(":")
            raise BadSettings(f"{name.upper()}:{says}") from None
        yield opened


def _ask_limits(settings: Settings) -> AskLimits:
    return AskLimits(
        max_message_chars=settings.max_message_chars,
        max_new_tokens=settings.max_reply_tokens,
        messages_per_minute=settings.messages_per_minute,
        max_open=settings.max_open_turns,
        max_queued=settings.max_queued_turns,
    )


def _seats(settings: Settings) -> Seats:
    return Seats(
        total=settings.max_connections,
        per_address=settings.max_connections_per_address,
        per_principal=settings.max_connections_per_principal,
        unauthenticated=settings.max_unauthenticated,
    )


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
