"""How far it goes: what was measured, multiplied. `python -m tests.bench.how_far`.

Prints the tables of HOW_FAR_IT_GOES.md; `--write` puts them there. All costs are those that
`python -m tests.bench.nodes --json tests/bench/how_far.json` has measured; all else is assumed, and
stands in `Assumed`.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.many import report
from tests.bench.many.model import ASSUMED, Assumed, Costs, Needed, needed
from tests.bench.many.plan import FULL
from tests.bench.many.storms import reconnect, taken_up
from tests.bench.report import Spread, markdown

HERE = Path(__file__).parent
PAGE = HERE / "HOW_FAR_IT_GOES.md"
FIGURES = HERE / "how_far.json"
SCALES = (10_000, 1_000_000, 100_000_000)


Row = tuple[str, Callable[[Needed], str]]

_ROWS: tuple[Row, ...] = (
    ("connections = users × {a.connections_per_user:.2f}", lambda n: f"{n.connections:,.0f}"),
    ("turns/s = users × {a.turns_per_minute} / 60", lambda n: f"{n.turns_per_s:,.0f}"),
    (
        "turns that run = turns/s × {a.tokens_per_turn} / {a.tokens_per_s:.0f}",
        lambda n: f"{n.running:,.0f}",
    ),
    ("tokens/s = turns/s × {a.tokens_per_turn}", lambda n: f"{n.tokens_per_s:,.0f}"),
    (
        "**GPUs** = tokens/s / {a.tokens_per_s_of_gpu:,.0f} (assumed)",
        lambda n: f"**{n.gpus:,}**",
    ),
    ("turns that another node hears", lambda n: f"{n.told:.0%}"),
    (
        "gateway cores = tokens/s × ({c.token_us:.0f} + share heard × "
        "{more:.0f} + other nodes × {c.heard_token_us:.0f} + tabs beside × "
        "{c.tab_token_us:.0f}) µs + connections × {c.idle_us_per_s:.1f} µs",
        lambda n: f"{n.node_cores:,.1f}",
    ),
    ("**nodes** = cores / {a.busy_node}, at least 2", lambda n: f"**{n.nodes:,}**"),
    ("their memory = connections × {c.connection_kb:.1f} KB", lambda n: f"{n.memory_gb:,.1f} GB"),
    ("to the clients, without TLS and TCP", lambda n: f"{n.egress_gbit_per_s:,.2f} Gbit/s"),
    (
        "Redis cores = tokens/s × ({c.redis_token_us:.1f} unheard, {c.redis_told_token_us:.1f} "
        "heard) µs + connections × {c.redis_idle_us_per_s:.2f} µs",
        lambda n: f"{n.redis_cores:,.1f}",
    ),
    ("**Redis shards** = cores / {a.busy_redis}", lambda n: f"**{n.redis_shards:,}**"),
    (
        "their memory = running × {c.redis_turn_bytes:,.0f} + connections × "
        "{c.redis_connection_bytes:,.0f} bytes",
        lambda n: f"{n.redis_gb:,.2f} GB",
    ),
    (
        "of one queue: turns/s × {c.redis_turn_us:.0f} µs, which no shard shares",
        lambda n: f"{n.queue_cores:,.2f} cores",
    ),
    ("**queues**, one for each pool of models", lambda n: f"**{n.queues:,}**"),
    (
        "PostgreSQL: transactions/s = 2 × turns/s + running (a checkpoint a second)",
        lambda n: f"{n.transactions_per_s:,.0f}",
    ),
    (
        "cores = turns/s × {c.postgres_turn_us:,.0f} µs + running / 1.8 × {c.renew_us:.1f} µs",
        lambda n: f"{n.postgres_cores:,.1f}",
    ),
    ("its log = turns/s × {c.log_turn_bytes:,.0f} bytes", lambda n: f"{n.log_mb_per_s:,.1f} MB/s"),
    (
        "**PostgreSQL shards** = cores / ({a.postgres_cores} × {a.busy_postgres}), or log / "
        "{a.postgres_log_mb_per_s:.0f} MB/s",
        lambda n: f"**{n.postgres_shards:,}**",
    ),
    (
        "stored = turns/day × {c.stored_turn_bytes:,.0f} bytes, at {a.daily_mean:.0%} of the peak",
        lambda n: f"{n.gb_per_day:,.1f} GB/day",
    ),
    (
        "to look for lapsed turns as it is done now: nodes / 1.8 × running × {c.lapsed_us:.2f} µs",
        lambda n: f"{n.lapsed_cores:,.1f} cores",
    ),
)


def model(a: Assumed, c: Costs) -> str:
    """Write the arithmetic for each scale."""
    scales = [needed(users, a, c) for users in SCALES]
    words = {"a": a, "c": c, "more": c.told_token_us - c.token_us}
    rows = [(says.format(**words), *map(show, scales)) for says, show in _ROWS]
    return markdown(("connected users", *(f"{users:,}" for users in SCALES)), rows)


def limits(a: Assumed, c: Costs) -> str:
    """Write how many users one of each is enough for, at the shares that it may be used."""
    million = 1_000_000
    n = needed(million, a, c)
    enough = (
        ("one GPU (assumed)", a.tokens_per_s_of_gpu / n.tokens_per_s),
        ("one node", a.busy_node / n.node_cores),
        ("one Redis", a.busy_redis / n.redis_cores),
        ("one queue", a.busy_redis / n.queue_cores),
        ("one PostgreSQL, its CPU", a.postgres_cores * a.busy_postgres / n.postgres_cores),
        ("one PostgreSQL, its log", a.postgres_log_mb_per_s / n.log_mb_per_s),
        # With the users grow both the nodes and what each of them looks through.
        ("a core that looks for lapsed turns", math.sqrt(1 / n.lapsed_cores)),
    )
    rows = [(what, f"{_rounded(share * million):,}") for what, share in enough]
    return markdown(("enough for", "connected users"), rows)


def _rounded(number: float) -> int:
    """Keep two digits: there are no more in what was measured."""
    return int(round(number, 1 - math.floor(math.log10(number))))


_STORMS = ((2, 5_000), (2, 20_000), (3, 20_000), (10, 20_000), (100, 20_000))
_LEFT = ((2, 200), (2, 1_000), (4, 1_000), (10, 1_000), (100, 1_000))
JITTER_S = 5.0


def storms(c: Costs) -> str:
    """Write what happens to the clients of a node that dies."""
    rows = []
    for nodes, clients in _STORMS:
        back = reconnect(
            nodes=nodes, clients=clients, accepts_per_s=c.joins_per_s, jitter_s=JITTER_S
        )
        rows.append(
            (
                f"{nodes}",
                f"{clients:,}",
                f"{back.peak_per_s:,.0f}",
                f"{back.longest_wait_s:.2f} s",
                f"{back.all_back_s:.1f} s",
            )
        )
    head = ("nodes", "clients of the dead one", "peak/s on each other", "longest wait", "all back")
    return markdown(head, rows)


def take_ups() -> str:
    """Write how long the turns of a node that dies stand still."""
    rows = [
        (f"{nodes}", f"{turns:,}", f"{taken_up(nodes=nodes, turns=turns):.1f} s")
        for nodes, turns in _LEFT
    ]
    return markdown(("nodes", "turns of the dead one", "the last one goes on after"), rows)


def blocks(whole: Mapping[str, Any]) -> dict[str, str]:
    """Make every table of the page, by its name there."""
    found = {
        name: {figure: Spread(*values) for figure, values in figures.items()}
        for name, figures in whole["medians"].items()
    }
    costs = Costs.of(found)
    made = {"machine": _machine(whole["machine"])}
    for part in (*report.COLUMNS, report.COUNTED):
        names = [step.name for step in FULL if step.part == part and step.name in found]
        made[part] = report.table(found, part, names)
    made |= {"model": model(ASSUMED, costs), "limits": limits(ASSUMED, costs)}
    return made | {"storms": storms(costs), "take-up": take_ups()}


def _machine(facts: Mapping[str, Any]) -> str:
    servers = facts["servers"]
    return (
        f"{facts['cpu']}, {facts['cores']} shared cores, Linux {facts['kernel']}, Python "
        f"{facts['python']}, PostgreSQL {servers['postgresql']}, Redis {servers['redis']}; to "
        f"write 4 KiB and fsync takes {facts['fsync_ms']:.2f} ms. Medians of {facts['rounds']} "
        "rounds."
    )


_BLOCK = re.compile(r"(<!-- (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str, made: Mapping[str, str]) -> str:
    """Put the tables into the page, each between its marks."""
    return _BLOCK.sub(lambda block: f"{block[1]}{made[block['name']]}\n{block[3]}", page)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, or write them into the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.how_far", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"put them into {PAGE.name}")
    options = parser.parse_args(arguments)
    made = blocks(json.loads(FIGURES.read_text()))
    if options.write:
        PAGE.write_text(filled(PAGE.read_text(), made))
    else:
        print("\n\n".join(f"{name}\n\n{block}" for name, block in made.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
