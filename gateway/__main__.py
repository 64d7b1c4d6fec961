"""The command line: `midm-gateway`, or `python -m gateway`."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from gateway.commands import chat, check, copy, key, schema, serve, simulate
from gateway.commands.parsing import BadUsage, suggestion
from gateway.server import CannotStart
from gateway.settings import BadSettings
from protocol.about import VERSION

FAILED = 1
BAD_USAGE = 2
INTERRUPTED = 130

COMMANDS = (serve, chat, check, simulate, copy, key, schema)

DESCRIPTION = """\
A real-time chat gateway for a language model. It keeps every conversation and
streams replies over WebSocket, SSE and REST. Without a command it serves."""

EPILOG = """\
to begin with:
  midm-gateway          serve on http://127.0.0.1:8080; a simulated model
                        answers, and conversations go to chatbot.db here
  midm-gateway chat     in another terminal: talk to it
  midm-gateway check    see whether all that it needs is there

Settings come from the environment and from a file .env in the working
directory; gateway/README.md lists them. `midm-gateway COMMAND --help` explains
more.

exit codes: 0 done, 1 failed, 2 wrong usage or setting, 130 interrupted
"""


class Parser(argparse.ArgumentParser):
    """Says what may have been meant, where a command is misspelt."""

    commands: Sequence[str] = ()

    def error(self, message: str) -> NoReturn:
        """Print the usage and what is wrong, and exit."""
        _, _, given = message.partition("invalid choice: '")
        if given and (meant := suggestion(given.partition("'")[0], list(self.commands))):
            message = f"{message}; {meant}"
        super().error(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        # What the terminal's or the pipe's encoding cannot say is not worth a traceback.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except (BadSettings, BadUsage) as error:
        return _complain(error, BAD_USAGE)
    except CannotStart as error:
        return _complain(error, FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED


def _open_closed_streams() -> None:
    """Give each standard stream that was closed, as by `<&-`, a file that is empty.

    Python has none for it. What is written to stdout fails, as if it were closed still: nobody is
    to take for printed what is not. What would be said on stderr is not said.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
            setattr(sys, name, os.fdopen(opened, mode))


def _complain(error: Exception, code: int) -> int:
    print(f"midm-gateway: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="midm-gateway",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    parser.set_defaults(command=serve.run, host=None, port=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    parser.commands = list(commands.choices)
    return parser


if __name__ == "__main__":
    sys.exit(main())
