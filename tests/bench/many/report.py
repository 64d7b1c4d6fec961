"""From records of many nodes to a result: medians, ratios, tables."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from tests.bench.many.cases import CASES, QUICK
from tests.bench.measure import Record
from tests.bench.report import NONE, Spread, markdown, spread

COUNTED = "counted"
_WORTH_A_ROW = 0.3

Medians = Mapping[str, Mapping[str, Spread]]
"""Each measurement's figures, by name and by figure."""

_BESIDE = {case.name: case.beside for case in (*CASES, *QUICK)}
_COMPARED = ("here_us_per_token", "here_us_per_turn", "kb_per_connection", "turns_per_s")


def undisturbed(records: Sequence[Record], calm: float | None) -> list[Record]:
    """Leave out what others disturbed by more than `calm` cores, where there is a calmer round.

    What is wrong is never left out.
    """
    limits = {record.load: calm for record in records if _noise(record) <= (calm or 0)}
    return [
        record
        for record in records
        if not record.right or _noise(record) <= (limits.get(record.load) or math.inf)
    ]


def _noise(record: Record) -> float:
    return record.figures.get("noise_cores", 0.0)


def with_ratios(records: Sequence[Record]) -> list[Record]:
    """Add each figure's ratio to the same of the case beside, in the same round."""
    found = {(record.load, record.round): record for record in records}
    return [_with_ratios(record, found) for record in records]


def _with_ratios(record: Record, found: Mapping[tuple[str, int], Record]) -> Record:
    other = found.get((_BESIDE.get(record.load) or "", record.round))
    if other is None or not other.right:
        return record
    ratios = {
        f"{name}_ratio": record.figures[name] / other.figures[name]
        for name in _COMPARED
        if record.figures.get(name) and other.figures.get(name)
    }
    return replace(record, figures={**record.figures, **ratios})


def medians(records: Iterable[Record]) -> dict[str, dict[str, Spread]]:
    """Sum up all rounds; figures of a record that is wrong count for nothing."""
    gathered: dict[str, dict[str, list[float]]] = {}
    for record in records:
        if record.right:
            figures = gathered.setdefault(record.load, {})
            for name, value in record.figures.items():
                figures.setdefault(name, []).append(value)
    return {
        load: {name: spread(values) for name, values in figures.items()}
        for load, figures in gathered.items()
    }


Shape = tuple[str, str]
"""A column: its title, and names of figures between braces, as in `{delay_p50_ms:.1f}`."""

_NOISE: Shape = ("noise cores", "{noise_cores:.2f}")

COLUMNS: Mapping[str, tuple[Shape, ...]] = {
    "stream": (
        ("CPU µs/token: its node", "**{here_us_per_token:.1f}**"),
        ("of embedded", "{here_us_per_token_ratio:.2f}"),
        ("the other node", "{there_us_per_token:.1f}"),
        ("Redis", "{redis_us_per_token:.1f}"),
        ("PostgreSQL", "{postgres_us_per_token:.1f}"),
        ("delay p50 / p99 ms", "{delay_p50_ms:.2f} / {delay_p99_ms:.1f}"),
        ("on the other node", "{far_delay_p50_ms:.2f} / {far_delay_p99_ms:.1f}"),
        ("Redis commands/turn", "{redis_commands_per_turn:,.0f}"),
        ("WAL bytes/turn", "{log_bytes_per_turn:,.0f}"),
        _NOISE,
    ),
    "turn": (
        ("CPU µs/turn: its node", "**{here_us_per_turn:,.0f}**"),
        ("of embedded", "{here_us_per_turn_ratio:.2f}"),
        ("Redis", "{redis_us_per_turn:,.0f}"),
        ("PostgreSQL", "{postgres_us_per_turn:,.0f}"),
        ("turns/s", "{turns_per_s:,.0f}"),
        ("first token p50 / p99 ms", "{first_token_p50_ms:.1f} / {first_token_p99_ms:.1f}"),
        ("turn p50 / p99 ms", "{turn_p50_ms:.1f} / {turn_p99_ms:.1f}"),
        _NOISE,
    ),
    "idle": (
        ("KB/connection", "**{kb_per_connection:.1f}**"),
        ("Redis bytes/connection", "{redis_bytes_per_connection:,.0f}"),
        ("accepts/s", "{accepts_per_s:,.0f}"),
        ("second tabs/s", "{joins_per_s:,.0f}"),
        ("CPU µs/accept: node", "{here_us_per_accept:,.0f}"),
        ("Redis", "{redis_us_per_accept:,.0f}"),
        ("PostgreSQL", "{postgres_us_per_accept:,.0f}"),
        ("the other node's /tab", "{there_us_per_join:,.0f}"),
        ("CPU µs/s of a connection: node", "{here_us_per_idle_s:.2f}"),
        ("Redis", "{redis_us_per_idle_s:.2f}"),
        ("PostgreSQL", "{postgres_us_per_idle_s:.2f}"),
        _NOISE,
    ),
    "carried": (
        ("tokens/s", "{tokens_per_s:,.0f}"),
        ("announcements/s", "{publishes_per_s:,.0f}"),
        ("Redis: CPU µs/token", "**{redis_us_per_token:.1f}**"),
        ("its core", "{redis_busy_cores:.2f}"),
        ("who publishes: CPU µs/token", "{publish_us_per_token:.1f}"),
        ("who listens", "{listen_us_per_token:.1f}"),
        _NOISE,
    ),
    "flood": (
        ("tokens/s", "**{tokens_per_s:,.0f}**"),
        ("announcements/s", "{publishes_per_s:,.0f}"),
        ("Redis: its core", "{redis_busy_cores:.2f}"),
        ("CPU µs/token", "{redis_us_per_token:.2f}"),
        ("bytes/running turn", "{bytes_per_turn:,.0f}"),
        _NOISE,
    ),
    "watched": (
        ("Redis: CPU ms/s per 10,000", "{redis_ms_per_s_per_10_000:.1f}"),
        ("the node", "{node_ms_per_s_per_10_000:.1f}"),
        ("Redis: bytes/session", "{redis_bytes_per_session:,.0f}"),
        ("the node", "{node_bytes_per_session:,.0f}"),
        _NOISE,
    ),
    "kept": (("bytes stored of a turn", "{stored_bytes_per_turn:,.0f}"),),
    "leased": (
        ("PostgreSQL: CPU µs to renew one", "{renew_us_per_lease:.2f}"),
        ("WAL bytes", "{renew_bytes_per_lease:,.0f}"),
        ("CPU ms to look for lapsed ones", "{lapsed_ms:.2f}"),
        _NOISE,
    ),
}


class _Shown(dict[str, float]):
    """Figures that are there, and of any other that it is not."""

    def __missing__(self, name: str) -> "_Missing":
        return _Missing()


class _Missing:
    def __format__(self, _: str) -> str:
        return NONE


def table(found: Medians, part: str, names: Sequence[str]) -> str:
    """Write one part as a Markdown table, leaving out what nobody has."""
    if part == COUNTED:
        return "\n\n".join(_counts(found[name]) for name in names)
    columns = COLUMNS[part]
    rows = [(name, *(_cell(shape, found[name]) for _, shape in columns)) for name in names]
    keep = [0] + [
        at for at in range(1, len(columns) + 1) if any(row[at].strip("* /" + NONE) for row in rows)
    ]
    head = ["", *(title for title, _ in columns)]
    return markdown([head[at] for at in keep], [[row[at] for at in keep] for row in rows])


def _cell(shape: str, figures: Mapping[str, Spread]) -> str:
    shown = shape.format_map(_Shown({name: each.median for name, each in figures.items()}))
    return NONE if not shown.strip("* /" + NONE) else shown


def _counts(figures: Mapping[str, Spread]) -> str:
    """Write what one turn asks of the servers, command by command."""
    kinds = sorted({key.rpartition(" a turn")[0] for key in figures if key.endswith(" a turn")})
    counts = [
        (kind, figures[f"{kind} a turn"].median, figures[f"{kind} idle a second"].median)
        for kind in kinds
    ]
    rows = [(kind, f"{a:.1f}", f"{b:.1f}") for kind, a, b in counts if max(a, b) >= _WORTH_A_ROW]
    return markdown(("", "a turn", "a second of an idle node"), rows)
