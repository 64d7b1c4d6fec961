"""From records to a result: medians, spread, ratios; as tables and as JSON."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from tests.bench.loads import DIRECT, GATEWAY, OBVIOUS, RELAY, Kind, Load
from tests.bench.measure import Record

NONE = "–"

RATIOS = (
    "cpu_us_per_token",
    "tokens_per_s",
    "turns_per_s",
    "first_token_p50_ms",
    "delay_p50_ms",
    "kb_per_connection",
    "cpu_us_per_accept",
    "ready_p50_ms",
)
"""Figures of the gateway that are divided by those of another contender, in the same round."""

ADDED = ("first_token_p50_ms", "first_token_p99_ms", "delay_p50_ms", "delay_p99_ms")
"""Figures from which those without any gateway are taken away, in the same round."""


@dataclass(frozen=True)
class Spread:
    """The median of some rounds, and how far they lie apart."""

    median: float
    lowest: float
    highest: float


def spread(values: Sequence[float]) -> Spread:
    """Sum up the rounds; there must be one."""
    return Spread(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Line:
    """One contender under one load, over all rounds."""

    load: str
    contender: str
    right: int
    rounds: int
    figures: Mapping[str, Spread]
    ratios: Mapping[str, Spread]
    """The gateway's figures divided by this contender's."""
    added: Mapping[str, Spread]
    """This contender's figures less those without a gateway."""


def summary(records: Iterable[Record]) -> list[Line]:
    """Sum up records, by load and contender in the order in which they came.

    Figures of a record that is wrong count for nothing.
    """
    groups: dict[tuple[str, str], dict[int, Record]] = {}
    for record in records:
        groups.setdefault((record.load, record.contender), {})[record.round] = record
    return [
        _line(rounds, groups.get((load, GATEWAY), {}), groups.get((load, DIRECT), {}))
        for (load, _), rounds in groups.items()
    ]


def _line(
    rounds: Mapping[int, Record], gateway: Mapping[int, Record], direct: Mapping[int, Record]
) -> Line:
    records = list(rounds.values())
    good = [record.figures for record in records if record.right]
    names = dict.fromkeys(name for figures in good for name in figures)
    return Line(
        records[0].load,
        records[0].contender,
        sum(record.right for record in records),
        len(records),
        {name: spread([figures[name] for figures in good if name in figures]) for name in names},
        {} if rounds is gateway else _pairs(RATIOS, gateway, rounds, _divided),
        {} if rounds is direct else _pairs(ADDED, rounds, direct, lambda one, two: one - two),
    )


def _pairs(
    names: Iterable[str],
    ones: Mapping[int, Record],
    twos: Mapping[int, Record],
    combined: Callable[[float, float], float],
) -> dict[str, Spread]:
    """Combine figures of two contenders round by round, for machines drift between rounds."""
    both = [
        (ones[number].figures, twos[number].figures)
        for number in sorted(ones.keys() & twos.keys())
        if ones[number].right and twos[number].right
    ]
    found = {}
    for name in names:
        values = [combined(a[name], b[name]) for a, b in both if name in a and name in b]
        if values:
            found[name] = spread(values)
    return found


def _divided(one: float, two: float) -> float:
    return one / two if two else float("inf")


Column = tuple[str, Callable[[Line], str]]


def _figure(*names: str, digits: int = 1) -> Callable[[Line], str]:
    """Show medians, separated by slashes."""

    def shown(line: Line) -> str:
        values = [line.figures[name].median for name in names if name in line.figures]
        return " / ".join(f"{value:,.{digits}f}" for value in values) or NONE

    return shown


def _spread(name: str) -> Callable[[Line], str]:
    """Show a median with its spread."""

    def shown(line: Line) -> str:
        if (found := line.figures.get(name)) is None:
            return NONE
        return f"**{found.median:,.1f}** ({found.lowest:,.1f}…{found.highest:,.1f})"

    return shown


def _right(line: Line) -> str:
    every = f"{line.right}/{line.rounds}"
    return every if line.right == line.rounds else f"**WRONG** {every}"


_FIRST_TOKEN: Column = (
    "first token p50 / p99 ms",
    _figure("first_token_p50_ms", "first_token_p99_ms", digits=2),
)
_DELAY: Column = ("delay p50 / p99 ms", _figure("delay_p50_ms", "delay_p99_ms", digits=2))
_READY: Column = ("until ready p50 / p99 ms", _figure("ready_p50_ms", "ready_p99_ms"))
_END: tuple[Column, ...] = (
    ("resident MB", _figure("resident_mb", digits=0)),
    ("noise cores", _figure("noise_cores", digits=2)),
    ("right", _right),
)
_CPU: Column = ("user / system", _figure("user_us_per_token", "system_us_per_token"))

COLUMNS: Mapping[Kind, tuple[Column, ...]] = {
    "stream": (
        ("CPU µs/token", _spread("cpu_us_per_token")),
        _CPU,
        ("tokens/s", _figure("tokens_per_s", digits=0)),
        _FIRST_TOKEN,
        _DELAY,
        ("frames/token", _figure("frames_per_token", digits=2)),
        *_END,
    ),
    "turn": (
        ("CPU µs/turn", _spread("cpu_us_per_turn")),
        ("turns/s", _figure("turns_per_s", digits=0)),
        _FIRST_TOKEN,
        ("turn p50 / p99 ms", _figure("turn_p50_ms", "turn_p99_ms", digits=2)),
        *_END,
    ),
    "churn": (
        ("CPU µs/token", _spread("cpu_us_per_token")),
        _READY,
        ("failed", _figure("churn_failed", digits=0)),
        _FIRST_TOKEN,
        _DELAY,
        *_END,
    ),
    "idle": (
        ("KB/connection", _spread("kb_per_connection")),
        ("CPU µs/accept", _figure("cpu_us_per_accept", digits=0)),
        ("accepts/s", _figure("accepts_per_s", digits=0)),
        _READY,
        ("CPU µs/s of a connection", _figure("cpu_us_per_idle_connection_s", digits=2)),
        ("resident MB", _figure("resident_mb", digits=0)),
        ("right", _right),
    ),
}


def tables(lines: Sequence[Line], loads: Sequence[Load]) -> str:
    """Write the result as Markdown: a table for each kind of load, and one of ratios."""
    parts = []
    for kind, columns in COLUMNS.items():
        chosen = [
            (load, line)
            for load in loads
            for line in lines
            if load.kind == kind and line.load == load.name
        ]
        if chosen:
            head = ("load", "contender", *(title for title, _ in columns))
            rows = [
                (load.says, line.contender, *(show(line) for _, show in columns))
                for load, line in chosen
            ]
            parts.append(markdown(head, rows))
    parts.append(_ratio_table(lines, loads))
    return "\n\n".join(parts)


_RATIO_COLUMNS = (
    ("CPU : relay", RELAY, "cpu_us_per_token"),
    ("CPU : obvious", OBVIOUS, "cpu_us_per_token"),
    ("tokens/s : direct", DIRECT, "tokens_per_s"),
    ("tokens/s : relay", RELAY, "tokens_per_s"),
    ("tokens/s : obvious", OBVIOUS, "tokens_per_s"),
    ("delay p50 : obvious", OBVIOUS, "delay_p50_ms"),
    ("KB/connection : obvious", OBVIOUS, "kb_per_connection"),
)
_ADDED_COLUMNS = (
    ("first token + ms", "first_token_p50_ms"),
    ("delay p50 + ms", "delay_p50_ms"),
    ("delay p99 + ms", "delay_p99_ms"),
)


def _ratio_table(lines: Sequence[Line], loads: Sequence[Load]) -> str:
    """Write the gateway's share of each other contender, and what it adds to none at all."""
    found = {(line.load, line.contender): line for line in lines}
    rows = []
    for load in loads:
        if (gateway := found.get((load.name, GATEWAY))) is None:
            continue
        others = [
            (found[load.name, who].ratios.get(name) if (load.name, who) in found else None)
            for _, who, name in _RATIO_COLUMNS
        ]
        added = [gateway.added.get(name) for _, name in _ADDED_COLUMNS]
        if any((*others, *added)):
            rows.append((load.says, *map(_times, others), *map(_plus, added)))
    titles = [column[0] for column in (*_RATIO_COLUMNS, *_ADDED_COLUMNS)]
    return markdown(("the gateway beside", *titles), rows)


def _times(ratio: Spread | None) -> str:
    if ratio is None:
        return NONE
    return f"**{ratio.median:.2f}** ({ratio.lowest:.2f}…{ratio.highest:.2f})"


def _plus(added: Spread | None) -> str:
    return NONE if added is None else f"{added.median:.2f}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def as_json(
    records: Sequence[Record],
    loads: Sequence[Load],
    *,
    machine: Mapping[str, object],
    commit: str | None,
) -> dict[str, object]:
    """Everything that was measured, and on what, for machines to read."""
    return {
        "machine": machine,
        "commit": commit,
        "loads": [asdict(load) for load in loads],
        "records": [asdict(record) for record in records],
        "summary": [asdict(line) for line in summary(records)],
    }
