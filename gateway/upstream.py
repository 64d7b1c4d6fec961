"""Opens the driver of the model servers that the settings name."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from gateway.settings import Settings
from llm.circuit import Circuit
from llm.client import Driver, Patience, UpstreamError
from llm.midm import Midm
from llm.openai import OpenAi
from llm.servers import Servers
from llm.simulator import SimulatorSettings, serve_simulator


@asynccontextmanager
async def open_driver(
    settings: Settings, *, passed_on: Callable[[UpstreamError], None] = lambda _: None
) -> AsyncIterator[Driver]:
    """Open a driver of the model server, or of several, until the context ends.

    `passed_on` hears of each call that failed at one of several and is made at another.
    """
    async with AsyncExitStack() as stack:
        urls = settings.llm_servers
        if settings.simulated:
            urls = [await stack.enter_async_context(serve_simulator(SimulatorSettings()))]
        drivers = [_driver(url, settings) for url in urls]
        for each in drivers:
            stack.push_async_callback(each.aclose)
        if len(drivers) == 1:
            yield drivers[0]
        else:
            yield Servers(
                drivers,
                max_calls=settings.calls_per_server,
                cool_down_s=settings.cool_down_s,
                passed_on=passed_on,
            )


def circuit_of(driver: Driver) -> Circuit:
    """Make the circuit breaker in front of a driver."""
    return Circuit(answers=lambda: driver.answers) if isinstance(driver, Servers) else Circuit()


def _driver(url: str, settings: Settings) -> Driver:
    patience = Patience(
        connect_s=settings.llm_connect_timeout_s,
        first_token_s=settings.llm_first_token_timeout_s,
        silence_s=settings.llm_silence_timeout_s,
        reply_s=settings.llm_reply_timeout_s,
    )
    api_key = settings.llm_api_key
    if settings.llm_api == "midm":
        return Midm(url, api_key=api_key, patience=patience)
    return OpenAi(
        url,
        # The simulated one has a name of its own.
        model="" if settings.simulated else settings.llm_model,
        api_key=api_key,
        extra_body=settings.extra_body,
        patience=patience,
    )
