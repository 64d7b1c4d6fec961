"""What PostgreSQL pays for the leases of many running turns, and for looking after dead nodes'."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from storage import leases, sessions, turns
from storage.claims import Claim
from storage.database import Database, open_database
from storage.migrations import migrate
from storage.operations import Operation
from storage.turns import NewTurn
from tests.bench.many import counted
from tests.bench.many.meter import speed_while, used
from tests.bench.many.site import POSTGRES, Servers
from tests.bench.many.voices import session_name
from tests.bench.measure import Record
from tests.servers.postgres import sql

_TIMES = 20
_AT_ONCE = 100
"""Turns that are stored in one transaction, only to have them there."""


def leased(open_turns: int) -> str:
    """Say how many there are."""
    return f"{open_turns} open turns"


def lease(given: Servers, number: int, *, open_turns: int, nodes: int = 4) -> Record:
    """Renew the leases of open turns, which some nodes hold, and look for lapsed ones."""
    with given.database() as url:
        return asyncio.run(_lease(given, url, open_turns, number, nodes))


async def _lease(given: Servers, url: str, count: int, number: int, nodes: int) -> Record:
    cores, fast_ns = given.bench.cores, given.bench.fast_ns
    pids = {POSTGRES: given.postgres.pid}
    async with _opened(url, count, nodes) as database:
        held = await _round(database, nodes)
        written, before = counted.written_bytes(url), used(pids)
        took = []
        for _ in range(_TIMES):
            began = time.monotonic()
            await _round(database, nodes)
            took.append(time.monotonic() - began)
        renewed = used(pids).since(before)
        bytes_written = counted.written_bytes(url) - written
        before = used(pids)
        for _ in range(_TIMES):
            lapsed = await database.read(turns.lapsed(most=100))
        looked = used(pids).since(before)
    speed = speed_while(None, cores, fast_ns, for_s=0.3).others
    faults = () if held == count and not lapsed else (f"{held} of {count} leases were renewed",)
    figures = {
        "renew_us_per_lease": renewed.cpu_s[POSTGRES] * speed * 1e6 / _TIMES / count,
        "renew_ms": sorted(took)[len(took) // 2] * 1e3 / nodes,
        "renew_bytes_per_lease": bytes_written / _TIMES / count,
        "lapsed_ms": looked.cpu_s[POSTGRES] * speed * 1e3 / _TIMES,
        "noise_cores": renewed.noise_cores(),
        "speed": speed,
    }
    return Record(leased(count), "leased", number, faults, figures)


async def _round(database: Database, nodes: int) -> int:
    return sum([len(await database.write(leases.renew(f"node-{n}"))) for n in range(nodes)])


@asynccontextmanager
async def _opened(url: str, count: int, nodes: int) -> AsyncIterator[Database]:
    """Open a database with so many open turns."""
    async with open_database(url, connections=4) as database:
        await migrate(database)
        for first in range(0, count, _AT_ONCE):
            await database.write(_begin(range(first, min(first + _AT_ONCE, count)), nodes))
        # What autovacuum does elsewhere: a plan is none without knowing how large the tables are.
        sql(url, "ANALYZE")
        yield database


def _begin(slots: range, nodes: int) -> Operation[None]:
    for slot in slots:
        session = session_name(slot)
        yield from sessions.create(session, {})
        new = NewTurn(
            claim=Claim(session),
            message="안녕하세요",
            replaces=None,
            request_id=None,
            fingerprint=None,
            generation={},
            status="running",
            user_message_id=session_name(10**9 + slot),
            reply_message_id=session_name(2 * 10**9 + slot),
            node=f"node-{slot % nodes}",
        )
        yield from turns.accept(new)
