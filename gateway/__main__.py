"""The command line: `midm-gateway`, or `python -m gateway`."""

import argparse
import asyncio
import gc
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from gateway.auth.api_keys import ApiKey, append_line, check_name, new_key
from gateway.logging import set_up_logging
from gateway.server import CannotStart, cannot_listen, serve
from gateway.settings import BadSettings, database_place, load_settings
from gateway.status import VERSION
from llm.simulator import SimulatorSettings, run_simulator
from llm.simulator.faults import MAX_MS
from storage.copying import Copied, copy_sessions
from storage.database import open_database
from storage.migrations import migrate
from storage.operations import StorageError

FAILED = 1
BAD_USAGE = 2
INTERRUPTED = 130
MAX_PORT = 65_535

SESSION_S = 3_600.0
"""How long it may take to copy one session, row for row over a network."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options) or 0)
    except BadSettings as error:
        return _complain(error, BAD_USAGE)
    except CannotStart as error:
        return _complain(error, FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED


def _complain(error: Exception, code: int) -> int:
    print(f"midm-gateway: {error}", file=sys.stderr)
    return code


def _serve(options: argparse.Namespace) -> int:
    settings = load_settings()
    set_up_logging(debug=settings.debug)
    # All that has been imported stays. Looking through it for garbage, and for young garbage every
    # 700 objects, would take an eighth of a turn's CPU, and at its worst 50 ms of everybody's time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)
    serve(settings)
    return 0


def _simulate(options: argparse.Namespace) -> int:
    settings = SimulatorSettings(
        interval_ms=options.interval_ms, first_token_ms=options.first_token_ms
    )
    try:
        run_simulator(settings, host=options.host, port=options.port)
    except OSError as error:
        raise cannot_listen(options.host, options.port, error) from None
    return 0


def _copy(options: argparse.Namespace) -> int:
    source, target = database_place(options.source), database_place(options.target)
    if isinstance(source, Path) and not source.exists():
        raise CannotStart(f"there is no database {source}")
    try:
        done = asyncio.run(_copy_sessions(source, target))
    except StorageError as error:
        raise CannotStart(str(error)) from None
    print(f"{done.copied} sessions copied, {done.already_there} were there already")
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


def _create_key(options: argparse.Namespace) -> int:
    key, kept = new_key(options.name)
    if options.file is None:
        print(
            f"What to add to API_KEYS, or as a line to API_KEYS_FILE: {kept.line}", file=sys.stderr
        )
    else:
        _append(options.file, kept)
    # By itself, so that a script can take it; and last: what it shows does open the gateway.
    print(key)
    return 0


def _append(file: Path, kept: ApiKey) -> None:
    try:
        append_line(file, kept)
    except OSError as error:
        raise CannotStart(f"{file} cannot be written: {error.strerror}") from None
    print(f"Its line was added to {file}; the key itself is shown this once:", file=sys.stderr)


def _key_name(text: str) -> str:
    try:
        check_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}, given {text!r}") from None
    return text


def _port(text: str) -> int:
    if text.isascii() and text.isdecimal() and int(text) <= MAX_PORT:
        return int(text)
    raise argparse.ArgumentTypeError(f"should be from 0 to {MAX_PORT}, given {text!r}")


def _milliseconds(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (milliseconds := float(text)) <= MAX_MS:
            return milliseconds
    raise argparse.ArgumentTypeError(f"should be from 0 to {MAX_MS:.0f}, given {text!r}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="midm-gateway",
        description="A real-time chat gateway for a language model. Without a command it serves.",
        epilog="Settings come from the environment and from .env; the README lists them.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    parser.set_defaults(command=_serve)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    serve_command = commands.add_parser("serve", help="run the gateway (the default)")
    serve_command.set_defaults(command=_serve)
    copy = commands.add_parser(
        "copy",
        help="copy all conversations into another database",
        description="Copy all conversations, from a file to a server for example. Stop the"
        " gateways that use either first. What is there already stays as it is.",
    )
    copy.set_defaults(command=_copy)
    copy.add_argument("source", help="where they are, written as in DATABASE_URL")
    copy.add_argument("target", help="where they are to be, likewise")
    _add_key_command(commands.add_parser("key", help="make API keys"))
    simulator = commands.add_parser("simulate", help="run the simulated model server alone")
    simulator.set_defaults(command=_simulate)
    simulator.add_argument("--host", default="127.0.0.1", help="(default: %(default)s)")
    simulator.add_argument("--port", type=_port, default=8000, help="(default: %(default)s)")
    simulator.add_argument(
        "--interval-ms",
        type=_milliseconds,
        default=40.0,
        help="between words (default: %(default)s)",
    )
    simulator.add_argument(
        "--first-token-ms",
        type=_milliseconds,
        default=200.0,
        help="before the first (default: %(default)s)",
    )
    return parser


def _add_key_command(key: argparse.ArgumentParser) -> None:
    commands = key.add_subparsers(title="commands", metavar="COMMAND", required=True)
    create = commands.add_parser(
        "create",
        help="make a key, and show it once",
        description="Make an API key and print it; the gateway keeps its digest alone.",
    )
    create.set_defaults(command=_create_key)
    create.add_argument("name", type=_key_name, metavar="NAME", help="whose it is")
    create.add_argument("--file", type=Path, metavar="PATH", help="add its line to this file")


if __name__ == "__main__":
    sys.exit(main())
