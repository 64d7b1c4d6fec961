"""What a gateway does by itself, beside what it is asked: each runs until it is cancelled."""

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from datetime import UTC, datetime, timedelta

from gateway.house import House
from gateway.nodes.keeper import Keeper
from protocol.errors import Refusal
from storage import sessions
from storage.database import Database
from storage.operations import StorageError
from storage.times import rfc3339

log = logging.getLogger(__name__)

SWEEP_EVERY_S = 3_600.0
ROUND_EVERY_S = 1.0


def chores(house: House, news: asyncio.Event) -> Iterator[Coroutine[object, object, None]]:
    """List what this gateway has to do; `news` is set when storage is to be asked at once."""
    yield house.probe.run()
    if house.entrance.authenticator.configured:
        yield _make_rounds(house)
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


async def _make_rounds(house: House) -> None:
    """Show those out, every second, whose credentials have expired or were revoked."""
    while True:
        await asyncio.sleep(ROUND_EVERY_S)
        for connection in tuple(house.connections):
            connection.check_rights()


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
            await database.write(sessions.keep(session_id))
        expired = await database.read(sessions.expired(before))
    except StorageError as error:
        log.warning("expired sessions could not be looked for: %s", error)
        return
    for session_id in expired:
        try:
            await house.turns.delete_unused(session_id, since=before)
        except Refusal as refusal:
            # Somebody uses it again, or another node was quicker; or storage is in trouble.
            fields = {"session": session_id, "code": refusal.code}
            log.info("a session is not deleted: %s", refusal, extra=fields)
