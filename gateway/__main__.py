"""The command line: `midm-gateway`, or `python -m gateway`."""

import argparse
import sys
from collections.abc import Sequence

from gateway.logging import set_up_logging
from gateway.rest import VERSION
from gateway.server import serve
from gateway.settings import BadSettings, load_settings
from llm.simulator import SimulatorSettings, run_simulator

BAD_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options) or 0)
    except BadSettings as error:
        print(f"midm-gateway: {error}", file=sys.stderr)
        return BAD_USAGE


def _serve(options: argparse.Namespace) -> int:
    settings = load_settings()
    set_up_logging(debug=settings.debug)
    serve(settings)
    return 0


def _simulate(options: argparse.Namespace) -> int:
    settings = SimulatorSettings(
        interval_ms=options.interval_ms, first_token_ms=options.first_token_ms
    )
    run_simulator(settings, host=options.host, port=options.port)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="midm-gateway",
        description="A real-time chat gateway for a language model. Without a command it serves.",
        epilog="Settings come from the environment and from .env; the README lists them.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    parser.set_defaults(command=_serve)
    commands = parser.add_subparsers(title="commands", metavar="")
    serve_command = commands.add_parser("serve", help="run the gateway (the default)")
    serve_command.set_defaults(command=_serve)
    simulator = commands.add_parser("simulate", help="run the simulated model server alone")
    simulator.set_defaults(command=_simulate)
    simulator.add_argument("--host", default="127.0.0.1", help="(default: %(default)s)")
    simulator.add_argument("--port", type=int, default=8000, help="(default: %(default)s)")
    simulator.add_argument(
        "--interval-ms", type=float, default=40.0, help="between words (default: %(default)s)"
    )
    simulator.add_argument(
        "--first-token-ms",
        type=float,
        default=200.0,
        help="before the first (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
