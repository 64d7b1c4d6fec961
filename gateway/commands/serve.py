"""`midm-gateway serve`: run the gateway."""

import argparse
import gc

from gateway.commands.parsing import Commands, described, port
from gateway.logging import set_up_logging
from gateway.server import serve
from gateway.settings import load_settings

DESCRIPTION = """\
Run the gateway until Ctrl-C or SIGTERM. Conversations go to chatbot.db in the
working directory, and a simulated model answers, unless settings say otherwise."""

EPILOG = """\
examples:
  midm-gateway serve
  midm-gateway serve --port 9000
  LLM_SERVER_URL=http://127.0.0.1:8000 midm-gateway serve

Settings come from the environment and from a file .env in the working
directory; an option goes before both. The README lists all of them, and
`midm-gateway check` looks at what they say.

exit codes:
  0 stopped   1 it cannot run here   2 wrong usage or setting
  137 stopped at once, by a second Ctrl-C or SIGTERM
"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    command = described(
        commands,
        "serve",
        brief="run the gateway (the default)",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    command.set_defaults(command=run)
    command.add_argument("--host", help="address to listen on (default: HOST, or 127.0.0.1)")
    command.add_argument(
        "--port", type=port, help="TCP port; 0 takes a free one (default: PORT, or 8080)"
    )


def run(options: argparse.Namespace) -> int:
    """Serve until told to stop; raises `BadSettings` and `CannotStart`."""
    settings = load_settings(host=options.host, port=options.port)
    set_up_logging(debug=settings.debug, form=settings.log_format)
    # All that has been imported stays. Looking through it for garbage, and for young garbage every
    # 700 objects, would take an eighth of a turn's CPU, and at its worst 50 ms of everybody's time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)
    serve(settings)
    return 0
