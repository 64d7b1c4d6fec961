"""`midm-gateway serve`: run the gateway."""

import argparse
import gc

from gateway.commands.parsing import Commands
from gateway.logging import set_up_logging
from gateway.server import serve
from gateway.settings import load_settings


def add_to(commands: Commands) -> None:
    """Add the command."""
    command = commands.add_parser("serve", help="run the gateway (the default)")
    command.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Serve until told to stop; raises `BadSettings` and `CannotStart`."""
    settings = load_settings()
    set_up_logging(debug=settings.debug, form=settings.log_format)
    # All that has been imported stays. Looking through it for garbage, and for young garbage every
    # 700 objects, would take an eighth of a turn's CPU, and at its worst 50 ms of everybody's time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)
    serve(settings)
    return 0
