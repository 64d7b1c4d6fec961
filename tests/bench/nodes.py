"""Measure many nodes beside one: `python -m tests.bench.nodes`.

It starts PostgreSQL, Redis, gateways, clients and a model server of its own, and compares every
byte that arrives, and that is stored, with what was said.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.bench import machine
from tests.bench.__main__ import end, positive
from tests.bench.many import report
from tests.bench.many.measure import FAILURES
from tests.bench.many.plan import FULL, SMALL, Step
from tests.bench.many.site import Servers, servers
from tests.bench.measure import Record
from tests.bench.programs import CannotCompile
from tests.bench.run import bench

_TRIES = 3
PARTS = tuple(dict.fromkeys(step.part for step in FULL))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; print tables; return 0 if every byte was right, 1 if not, 2 if it cannot be done."""
    options = _parser().parse_args(arguments)
    steps = [step for step in (SMALL if options.quick else FULL) if step.part in options.only]
    rounds = options.rounds or (1 if options.quick else 3)
    began = time.monotonic()
    try:
        with bench(options.folder) as made, servers(made) as given:
            facts = {**machine.description(), "fsync_ms": machine.fsync_ms(options.folder)}
            facts |= {"servers": given.versions(), "rounds": rounds}
            measured = run(steps, given, rounds, _tell, calm=options.calm)
    except (CannotCompile, RuntimeError) as error:
        _tell(f"cannot measure: {error}")
        return 2
    _tell(f"took {time.monotonic() - began:.0f} s")
    records = [record for _, record in measured]
    calm = report.undisturbed(records, options.calm)
    found = report.medians(report.with_ratios(calm))
    if options.json:
        _keep(options.json, found, facts)
    for part in PARTS:
        names = [step.name for step in steps if step.part == part and step.name in found]
        if names:
            print(report.table(found, part, names), end="\n\n")
    return 0 if records and all(record.right for record in records) else 1


def run(
    steps: Sequence[Step],
    given: Servers,
    rounds: int,
    tell: Callable[[str], None],
    *,
    calm: float | None = None,
    calm_within_s: float = 15.0,
) -> list[tuple[Step, Record]]:
    """Measure everything, round by round, telling line by line how it goes.

    With `calm`, what was measured while other programs used more cores than that is measured again,
    a few times; the calmest record counts, and any that is wrong.
    """
    every = [(number, step) for number in range(rounds) for step in steps]
    every = [(number, step) for number, step in every if not (step.once and number)]
    measured = []
    for index, (number, step) in enumerate(every, 1):
        tries: list[Record] = []
        while not tries or _again(tries, calm):
            if calm is not None:
                machine.wait_until_calm(calm, within_s=calm_within_s)
            tries.append(_measured(step, given, number))
            tell(f"[{index}/{len(every)}] {_in_a_line(tries[-1])}")
        kept = [each for each in tries if not each.right] or [min(tries, key=_noise)]
        measured += [(step, record) for record in kept]
    return measured


def _again(tries: Sequence[Record], calm: float | None) -> bool:
    if calm is None or len(tries) >= _TRIES or not tries[-1].right:
        return False
    return min(map(_noise, tries)) > calm


def _noise(record: Record) -> float:
    return record.figures.get("noise_cores", 0.0)


def _in_a_line(record: Record) -> str:
    verdict = "right" if record.right else f"WRONG: {'; '.join(record.faults)}"
    return f"{record.load}: noise {_noise(record):.2f}, {verdict}"


def _measured(step: Step, given: Servers, number: int) -> Record:
    try:
        return step.run(given, number)
    except FAILURES as error:
        return Record(step.name, step.part, number, (f"{type(error).__name__}: {error}",), {})


def _keep(file: Path, found: report.Medians, facts: dict[str, object]) -> None:
    """Write medians to a file, beside those of other measurements that are there."""
    known = json.loads(file.read_text())["medians"] if file.exists() else {}
    new = {
        name: {
            figure: [round(value, 4) for value in asdict(each).values()]
            for figure, each in figures.items()
        }
        for name, figures in found.items()
    }
    whole = {"machine": facts, "medians": dict(sorted({**known, **new}.items()))}
    file.write_text(json.dumps(whole, ensure_ascii=False, indent=1) + "\n")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parts(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in PARTS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(PARTS)}")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.nodes",
        description="Measure many nodes, on PostgreSQL and Redis, beside one that is alone.",
    )
    parser.add_argument("--rounds", type=positive, help="(default: 3, with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="small loads, in half a minute")
    parser.add_argument(
        "--calm",
        type=float,
        metavar="CORES",
        help="wait for others to use less, and measure again what they disturbed more",
    )
    parser.add_argument(
        "--only", type=_parts, default=PARTS, metavar="NAMES", help=", ".join(PARTS)
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write all medians there, and leave those of other measurements",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help="where files are while they are needed (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)  # or what was started would go on without us
    sys.exit(main())
