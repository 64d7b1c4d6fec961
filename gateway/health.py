"""Whether the model server and the database work, known before anybody asks.

midm's `/health` hangs while it generates, for up to a minute; so it is asked in the background,
and silence while a call of ours runs means that it is busy, not that it is down.
"""

import asyncio
import logging
from dataclasses import dataclass

import anyio
from sqlalchemy import Executable, select, update

from llm.admission import Admission
from llm.circuit import Circuit
from llm.client import Driver, UpstreamError, UpstreamTimeout
from llm.servers import Servers
from storage.database import Database
from storage.migrations import FIRST
from storage.operations import Operation, StorageError
from storage.tables import migrations, sessions

log = logging.getLogger(__name__)

PROBE_EVERY_S = 5.0
FIRST_ANSWER_WITHIN_S = 0.5
DATABASE_WITHIN_S = 0.3

_READ = select(sessions.c.session_id).limit(1)
# The first migration is always there, and writing what is there already is writing.
_WRITE = (
    update(migrations).where(migrations.c.name == FIRST).values(applied_at=migrations.c.applied_at)
)


@dataclass(frozen=True)
class ModelHealth:
    """What the last probe found."""

    available: bool
    busy: bool
    servers: int
    """How many servers are available, of as many as there are."""


class Probe:
    """Asks after the model server's health again and again."""

    def __init__(
        self, *, driver: Driver, circuit: Circuit, admission: Admission, database: Database
    ) -> None:
        self._driver = driver
        self._circuit = circuit
        self._admission = admission
        self._database = database
        self._health: ModelHealth | None = None
        self._known = asyncio.Event()

    async def run(self) -> None:
        """Probe until cancelled."""
        while True:
            found = await self._ask()
            if found != self._health:
                log.info("the model server is %s", _in_words(found, self.servers))
            self._health = found
            self._known.set()
            await anyio.sleep(PROBE_EVERY_S)

    async def model(self) -> ModelHealth:
        """Tell what is known; waits a moment only while the first probe is under way."""
        with anyio.move_on_after(FIRST_ANSWER_WITHIN_S):
            await self._known.wait()
        return self._health or ModelHealth(available=False, busy=False, servers=0)

    @property
    def servers(self) -> int:
        """How many model servers there are."""
        return len(self._driver) if isinstance(self._driver, Servers) else 1

    @property
    def available(self) -> bool:
        """Whether the model server was there, and well or busy, when it was asked last."""
        return self._health is not None and self._health.available

    @property
    def servers_well(self) -> int:
        """How many model servers were well, or busy, when they were asked last."""
        return self._health.servers if self._health is not None else 0

    @property
    def circuit_open(self) -> bool:
        """Whether calls of the model server are refused for now."""
        return self._circuit.open

    async def database(self) -> bool:
        """Tell whether the database reads and writes, quickly.

        Writing is tried only if it went wrong the last time: until somebody does, nobody knows
        that it goes well again.
        """
        try:
            with anyio.fail_after(DATABASE_WITHIN_S):
                if self._database.in_trouble:
                    await self._database.write(_try(_WRITE))
                await self._database.read(_try(_READ))
                return not self._database.in_trouble
        except (StorageError, TimeoutError):
            return False

    async def _ask(self) -> ModelHealth:
        try:
            well = await self._driver.healthy()
            if well:
                self._circuit.seen_well()
            return self._found(available=well, busy=False)
        except UpstreamError as error:
            log.debug("no health from the model server: %s", error)
            # Whoever refuses, or breaks off, is down whatever is under way.
            busy = isinstance(error, UpstreamTimeout) and self._admission.calls > 0
            return self._found(available=busy, busy=busy)

    def _found(self, *, available: bool, busy: bool) -> ModelHealth:
        servers = int(available)
        if isinstance(self._driver, Servers):
            # One that is mute while calls are under way is busy, not down.
            servers = self._driver.available(mute_too=self._admission.calls > 0)
        return ModelHealth(available=available, busy=busy, servers=servers)


def _try(statement: Executable) -> Operation[None]:
    yield statement, {}


def _in_words(health: ModelHealth, total: int) -> str:
    how_many = f": {health.servers} of {total} are well" if total > 1 else ""
    if health.busy:
        return f"busy{how_many}"
    return f"ready{how_many}" if health.available else "not available"
