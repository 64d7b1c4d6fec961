"""The command line: `midm-gateway`, or `python -m gateway`."""

import argparse
import sys
from collections.abc import Sequence

from gateway.commands import copy, key, schema, serve, simulate
from gateway.server import CannotStart
from gateway.settings import BadSettings
from protocol.about import VERSION

FAILED = 1
BAD_USAGE = 2
INTERRUPTED = 130

COMMANDS = (serve, simulate, copy, key, schema)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except BadSettings as error:
        return _complain(error, BAD_USAGE)
    except CannotStart as error:
        return _complain(error, FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED


def _complain(error: Exception, code: int) -> int:
    print(f"midm-gateway: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="midm-gateway",
        description="A real-time chat gateway for a language model. Without a command it serves.",
        epilog="Settings come from the environment and from .env; gateway/README.md lists them.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    parser.set_defaults(command=serve.run)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
