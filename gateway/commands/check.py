"""`midm-gateway check`: look at everything a gateway needs, and say what to do."""

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict

from gateway.checks.access import check_access
from gateway.checks.broker import check_broker
from gateway.checks.database import check_database
from gateway.checks.finding import Finding, State, ok, wrong
from gateway.checks.machine import check_files, check_port
from gateway.checks.model import ANSWER_S, check_answer, check_model
from gateway.commands.parsing import Commands, described
from gateway.commands.printing import put
from gateway.settings import BadSettings, Settings, load_settings
from protocol.text import printable

Check = Callable[[Settings], Awaitable[list[Finding]]]

WITHIN_S = 6.0
TELL_AFTER_S = 1.0

CHECKS: dict[str, Check] = {
    "model server": check_model,
    "database": check_database,
    "broker": check_broker,
    "access": check_access,
    "port": check_port,
    "open files": check_files,
}

DESCRIPTION = """\
Read the settings as `serve` does and look at everything a gateway needs: the
model server, database, broker, keys, port and limits. Each gets one line: ok,
warning or wrong, and what to do. Nothing that is looked at is changed."""

EPILOG = """\
examples:
  midm-gateway check                       before the first start
  midm-gateway check --ask                 have the model say one token, too
  midm-gateway check --json | jq '.[] | select(.state != "ok")'

Settings come from the environment and from .env. It takes at most 6 seconds,
with --ask a minute.

exit codes:
  0 nothing is wrong, though there may be warnings   1 something is wrong
"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    command = described(
        commands,
        "check",
        brief="see whether all that a gateway needs is there",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    command.set_defaults(command=run)
    command.add_argument("--ask", action="store_true", help="have the model say one token")
    command.add_argument("--json", action="store_true", help="print one list of JSON objects")


def run(options: argparse.Namespace) -> int:
    """Check; return 1 if anything is wrong; raises `CannotStart` if that cannot be printed."""
    try:
        settings = load_settings()
    except BadSettings as error:
        findings = [wrong("settings", str(error), "correct it in the environment or in .env")]
    else:
        checks = {**CHECKS, "model answer": check_answer} if options.ask else CHECKS
        findings = [ok("settings", "can be used"), *asyncio.run(_all(checks, settings))]
    _print(findings, as_json=options.json)
    return int(any(finding.state is State.WRONG for finding in findings))


async def _all(checks: dict[str, Check], settings: Settings) -> list[Finding]:
    """Run all checks at once; tell on stderr which ones are waited for, after a second."""
    running = {asyncio.create_task(_bounded(name, checks[name], settings)): name for name in checks}
    pending = set(running)
    while pending:
        _, pending = await asyncio.wait(pending, timeout=TELL_AFTER_S)
        if pending:
            names = ", ".join(name for task, name in running.items() if task in pending)
            print(f"waiting for: {names}", file=sys.stderr, flush=True)
    return [finding for task in running for finding in task.result()]


async def _bounded(name: str, check: Check, settings: Settings) -> list[Finding]:
    within_s = WITHIN_S if check is not check_answer else ANSWER_S + 1
    try:
        async with asyncio.timeout(within_s):
            return await check(settings)
    except TimeoutError:
        return [wrong(name, f"no answer within {within_s:.0f} s", "see whether it hangs")]


def _print(findings: list[Finding], *, as_json: bool) -> None:
    if as_json:
        put(json.dumps([asdict(finding) for finding in findings], ensure_ascii=False, indent=2))
        return
    width = max(len(finding.about) for finding in findings)
    for finding in findings:
        says = printable(f"{finding.says}; {finding.do}" if finding.do else finding.says)
        put(f"{finding.state:<7}  {finding.about:<{width}}  {says}")
