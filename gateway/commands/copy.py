"""`midm-gateway copy`: copy all conversations into another database."""

import argparse
import asyncio
import sys
from pathlib import Path

from gateway.commands.parsing import Commands, described
from gateway.commands.printing import put
from gateway.server import CannotStart
from gateway.settings import database_place
from storage.copying import Copied, copy_sessions
from storage.database import open_database
from storage.migrations import migrate
from storage.operations import StorageError

SESSION_S = 3_600.0
"""How long it may take to copy one session, row for row over a network."""


DESCRIPTION = """\
Copy all conversations, from a file to a server for example. Stop the gateways
that use either first. What is there already stays as it is. It counts as it
goes."""

EPILOG = """\
example:
  midm-gateway copy chatbot.db postgresql://midm:secret@127.0.0.1:5432/midm

exit codes: 0 copied, 1 failed, 2 wrong usage, 130 stopped with Ctrl-C; done
again, it goes on with what is missing
"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    command = described(
        commands,
        "copy",
        brief="copy all conversations into another database",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    command.set_defaults(command=run)
    command.add_argument("source", help="where they are, written as in DATABASE_URL")
    command.add_argument("target", help="where they are to be, likewise")


def run(options: argparse.Namespace) -> int:
    """Copy; raises `BadSettings` and `CannotStart`."""
    source, target = database_place(options.source), database_place(options.target)
    if isinstance(source, Path) and not source.exists():
        raise CannotStart(f"there is no database {source}")
    try:
        done = asyncio.run(_copy_sessions(source, target))
    except StorageError as error:
        raise CannotStart(str(error)) from None
    put(f"{done.copied} sessions copied, {done.already_there} were there already")
    return 0


async def _copy_sessions(source: str | Path, target: str | Path) -> Copied:
    async with (
        open_database(source, operation_s=SESSION_S) as old,
        open_database(target, operation_s=SESSION_S) as new,
    ):
        for database in (old, new):
            await migrate(database)
        return await copy_sessions(old, new, _tell)


def _tell(copied: Copied) -> None:
    print(f"{copied.copied} …", file=sys.stderr)
