"""A process that writes for ever and prints a number once it is stored. Run by a test."""

import asyncio
import sys
from pathlib import Path

from sqlalchemy import text

from storage.database import Database, open_database
from storage.operations import Operation

WRITERS = 20


def _create() -> Operation[None]:
    yield text("CREATE TABLE numbers (number INTEGER PRIMARY KEY, again INTEGER)"), {}


def _store(number: int) -> Operation[None]:
    yield text("INSERT INTO numbers (number) VALUES (:number)"), {"number": number}
    yield text("UPDATE numbers SET again = :number WHERE number = :number"), {"number": number}


async def _write(database: Database, first: int) -> None:
    number = first
    while True:
        await database.write(_store(number))
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        number += WRITERS


async def _main() -> None:
    async with open_database(Path(sys.argv[1])) as database:
        await database.write(_create())
        await asyncio.gather(*(_write(database, first) for first in range(WRITERS)))


if __name__ == "__main__":
    asyncio.run(_main())
