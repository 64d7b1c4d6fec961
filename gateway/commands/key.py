"""`midm-gateway key create`: make an API key."""

import argparse
import sys
from pathlib import Path

from gateway.auth.api_keys import ApiKey, append_line, check_name, new_key
from gateway.commands.parsing import Commands, described
from gateway.commands.printing import put
from gateway.server import CannotStart

EPILOG = """\
example:
  midm-gateway key create alice --file keys.txt
  API_KEYS_FILE=keys.txt midm-gateway

exit codes: 0 made, 1 the file cannot be written, 2 wrong usage
"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    key = commands.add_parser("key", help="make API keys")
    kinds = key.add_subparsers(title="commands", metavar="COMMAND", required=True)
    create = described(
        kinds,
        "create",
        brief="make a key, and show it once",
        description="Make an API key and print it; the gateway keeps its digest alone.",
        epilog=EPILOG,
    )
    create.set_defaults(command=run)
    create.add_argument("name", type=_key_name, metavar="NAME", help="whose it is")
    create.add_argument("--file", type=Path, metavar="PATH", help="add its line to this file")


def run(options: argparse.Namespace) -> int:
    """Make a key and print it; raises `CannotStart`."""
    key, kept = new_key(options.name)
    if options.file is None:
        print(
            f"What to add to API_KEYS, or as a line to API_KEYS_FILE: {kept.line}", file=sys.stderr
        )
    else:
        _append(options.file, kept)
    # By itself, so that a script can take it; and last: what it shows does open the gateway.
    put(key)
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
