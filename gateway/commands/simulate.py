"""`midm-gateway simulate`: run the simulated model server alone."""

import argparse
from contextlib import suppress

from gateway.commands.parsing import Commands, described, port
from gateway.server import cannot_listen
from llm.simulator import SimulatorSettings, run_simulator
from llm.simulator.faults import MAX_MS

EPILOG = """\
example:
  midm-gateway simulate --port 8000
  LLM_SERVER_URL=http://127.0.0.1:8000 midm-gateway

A message with #sim …# asks it for trouble; the README says which.

exit codes: 0 stopped, 1 it cannot listen, 2 wrong usage
"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    command = described(
        commands,
        "simulate",
        brief="run the simulated model server alone",
        description="Speak the wire of midm's model server, and make the answers up.",
        epilog=EPILOG,
    )
    command.set_defaults(command=run)
    command.add_argument("--host", default="127.0.0.1", help="(default: %(default)s)")
    command.add_argument("--port", type=port, default=8000, help="(default: %(default)s)")
    command.add_argument(
        "--interval-ms",
        type=_milliseconds,
        default=40.0,
        help="between words (default: %(default)s)",
    )
    command.add_argument(
        "--first-token-ms",
        type=_milliseconds,
        default=200.0,
        help="before the first (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """Serve until told to stop; raises `CannotStart`."""
    settings = SimulatorSettings(
        interval_ms=options.interval_ms, first_token_ms=options.first_token_ms
    )
    try:
        run_simulator(settings, host=options.host, port=options.port)
    except OSError as error:
        raise cannot_listen(options.host, options.port, error) from None
    return 0


def _milliseconds(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (milliseconds := float(text)) <= MAX_MS:
            return milliseconds
    raise argparse.ArgumentTypeError(f"should be from 0 to {MAX_MS:.0f}, given {text!r}")
