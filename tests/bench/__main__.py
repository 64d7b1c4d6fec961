"""The command line: `python -m tests.bench`."""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench import contenders, machine, report
from tests.bench.loads import EVERYBODY, LOADS, QUICK_LOADS, Load
from tests.bench.measure import Record
from tests.bench.programs import CannotCompile
from tests.bench.run import Plan, bench, run

BY_NAME = {load.name: load for load in (*LOADS, *QUICK_LOADS)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; print tables; return 0 if every byte was right, 1 if not, 2 if it cannot be done."""
    options = _parser().parse_args(arguments)
    plan = _plan(options)
    begin = time.monotonic()
    try:
        with bench(options.folder) as made:
            fsync_ms = machine.fsync_ms(options.folder)
            records = run(plan, made, _tell)
    except CannotCompile as error:
        _tell(f"cannot measure: {error}")
        return 2
    _tell(f"took {time.monotonic() - begin:.0f} s")
    facts = {
        **machine.description(),
        "contenders": contenders.description(),
        "fsync_ms": fsync_ms,
        "fast_step_ns": made.fast_ns,
    }
    _write(options.json, records, plan, facts)
    print(report.tables(report.summary(records), plan.loads))
    print(f"\n{_footnote(facts)}", flush=True)
    return 0 if records and all(record.right for record in records) else 1


def _plan(options: argparse.Namespace) -> Plan:
    loads: tuple[Load, ...] = options.loads or (QUICK_LOADS if options.quick else LOADS)
    rounds: int = options.rounds or (1 if options.quick else 3)
    return Plan(loads, rounds, options.only)


def _write(
    file: Path | None, records: Sequence[Record], plan: Plan, facts: dict[str, object]
) -> None:
    if file is not None:
        whole = report.as_json(records, plan.loads, machine=facts, commit=machine.commit())
        file.write_text(json.dumps(whole, ensure_ascii=False, indent=1) + "\n")


def _footnote(facts: dict[str, object]) -> str:
    named = contenders.description().items()
    return "\n".join(
        [
            f"{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}, "
            f"Python {facts['python']}; to write 4 KiB and fsync takes {facts['fsync_ms']:.2f} ms.",
            *(f"{name}: {what}." for name, what in named),
        ]
    )


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _loads(text: str) -> tuple[Load, ...]:
    return tuple(BY_NAME[name] for name in _names(text, BY_NAME))


def _contenders(text: str) -> tuple[str, ...]:
    return tuple(_names(text, EVERYBODY))


def _names(text: str, known: Sequence[str] | dict[str, Load]) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
    return names


def positive(text: str) -> int:
    """Read a number of at least 1."""
    if text.isascii() and text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"should be 1 or more, given {text!r}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measure the gateway beside no gateway, a byte relay and the obvious gateway.",
    )
    every = ", ".join(load.name for load in LOADS)
    parser.add_argument("--loads", type=_loads, metavar="NAMES", help=f"(default: {every})")
    parser.add_argument("--rounds", type=positive, help="(default: 3, with --quick 1)")
    parser.add_argument(
        "--only", type=_contenders, default=EVERYBODY, metavar="NAMES", help=", ".join(EVERYBODY)
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    parser.add_argument(
        "--quick", action="store_true", help="a few small loads, in a minute or two"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help="where the databases are while they are needed (default: %(default)s)",
    )
    return parser


def end(*_: object) -> None:
    """End when told to, having cleaned up."""
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)  # or what was started would go on without us
    sys.exit(main())
