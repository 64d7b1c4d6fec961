"""Runs the conformance vectors against any server that speaks the contract.

python -m tests.conformance http://127.0.0.1:8080 [--key KEY --other-key KEY] [NAME…]
"""

import argparse
import asyncio
import sys

import httpx
from websockets.exceptions import WebSocketException

from tests.conformance.matching import Mismatch, Variables
from tests.conformance.running import Scenario, run, scenarios


def main() -> int:
    """Run what fits the server; 0 if all of it holds, 1 if not, 2 if nothing could be run."""
    options = _parser().parse_args()
    variables: Variables = {}
    if options.key and options.other_key:
        variables = {"key": options.key, "other_key": options.other_key}
    url = options.url.rstrip("/")
    if silence := _silence(url):
        print(f"{url} does not answer: {silence}", file=sys.stderr)
        return 2
    failed = done = 0
    for scenario in scenarios():
        if not all(part in str(scenario) for part in options.part):
            continue
        missing = _missing(scenario, variables, options.real_model)
        if missing:
            print(f"left out  {scenario}: needs {missing}")
            continue
        done += 1
        says = asyncio.run(_tried(scenario, url, variables))
        failed += says is not None
        print(f"{'holds   ' if says is None else 'BROKEN  '}  {scenario}")
        if says is not None:
            print(f"          {says}")
    print(f"{done - failed} of {done} hold")
    return 2 if not done else int(failed > 0)


def _silence(url: str) -> str | None:
    """Say why nobody answers there; None if somebody does, whatever it is."""
    try:
        httpx.get(url, timeout=5, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return str(error) or type(error).__name__
    return None


async def _tried(scenario: Scenario, url: str, variables: Variables) -> str | None:
    try:
        await run(scenario, url, variables)
    except (Mismatch, OSError, ValueError, httpx.HTTPError, WebSocketException) as error:
        return str(error) or type(error).__name__
    return None


def _missing(scenario: Scenario, variables: Variables, real_model: bool) -> str:
    if "keys" in scenario.needs and not variables:
        return "two keys: --key and --other-key"
    if "anonymous" in scenario.needs and variables:
        return "a server that asks for no keys"
    if "simulator" in scenario.needs and real_model:
        return "the simulated model"
    return ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("url", help="of the server, such as http://127.0.0.1:8080")
    parser.add_argument("part", nargs="*", help="run only scenarios with this in their name")
    parser.add_argument("--key", help="a key of the server, where it asks for one")
    parser.add_argument("--other-key", help="a key of somebody else")
    parser.add_argument(
        "--real-model", action="store_true", help="leave out what needs the simulated model"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
