"""How many machines so many users need: assumptions, measured costs, and their product."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tests.bench.many import report
from tests.bench.many.cases import KEPT
from tests.bench.many.saturation import Flood

DAY_S = 86_400


@dataclass(frozen=True, kw_only=True)
class Assumed:
    """What nobody has measured. A reply is the one that was measured, so that its costs apply."""

    turns_per_minute: float = 0.5
    """Of each connected user."""
    tokens_per_turn: int = 256
    tokens_per_s: float = 50.0
    tabs: Mapping[int, float]
    """How many tabs, on whichever node, a user has open: the share of users."""
    busy_node: float = 0.6
    """How much of its one core a node may use at the peak."""
    busy_redis: float = 0.5
    postgres_cores: int = 16
    busy_postgres: float = 0.5
    postgres_log_mb_per_s: float = 200.0
    """How much a primary writes to its log without its replicas falling behind."""
    daily_mean: float = 0.4
    """Of the peak, over a day."""
    tokens_per_s_of_gpu: float = 2_500.0
    """Of all streams of a GPU together; of a model that fits on one."""

    @property
    def connections_per_user(self) -> float:
        """How many tabs that is on average."""
        return sum(count * share for count, share in self.tabs.items())

    def listening(self, nodes: int) -> tuple[float, float]:
        """Of how many turns other nodes hear, and how many do on average, if chance decides."""
        elsewhere = 1 - 1 / nodes
        heard = sum(s * (1 - (1 - elsewhere) ** (n - 1)) for n, s in self.tabs.items())
        # The expected number of different nodes that n - 1 tabs are on, without the turn's own.
        others = sum(
            s * (nodes - 1) * (1 - (1 - 1 / nodes) ** (n - 1)) for n, s in self.tabs.items()
        )
        return heard, others


ASSUMED = Assumed(tabs={1: 0.80, 2: 0.15, 3: 0.05})


@dataclass(frozen=True)
class Costs:
    """What was measured: CPU microseconds at the full speed of a core, bytes."""

    token_us: float
    """Of a token on its own node, where no other one listens; the turn's share included."""
    told_token_us: float
    """The same, where another node listens."""
    heard_token_us: float
    """On that other node, with one tab."""
    tab_token_us: float
    """Of one more tab on the same node."""
    idle_us_per_s: float
    connection_kb: float
    joins_per_s: float
    """Tabs that come back to a session there is, on one node."""
    redis_token_us: float
    redis_told_token_us: float
    redis_turn_us: float
    redis_idle_us_per_s: float
    redis_connection_bytes: float
    redis_turn_bytes: float
    postgres_turn_us: float
    renew_us: float
    lapsed_us: float
    """To look through one open turn for lapsed ones."""
    log_turn_bytes: float
    stored_turn_bytes: float
    wire_token_bytes: float

    @classmethod
    def of(cls, found: report.Medians) -> "Costs":
        """Pick them from what was measured."""

        def median(name: str, figure: str) -> float:
            return found[name][figure].median

        alone, quiet = "150 streams, embedded", "150 streams, one node of many"
        tabs = "150 streams and a second tab, embedded"
        told = "150 streams and a second tab on another node"
        turn, idle = "50 clients, turns of one token", "3000 idle connections, one node of many"
        joined = "1500 sessions and a second tab on another node, idle"
        few, many = (found[f"{n} open turns"]["lapsed_ms"].median for n in (1_000, 10_000))
        return cls(
            token_us=median(quiet, "here_us_per_token"),
            told_token_us=median(told, "here_us_per_token"),
            heard_token_us=median(told, "there_us_per_token"),
            tab_token_us=median(tabs, "here_us_per_token") - median(alone, "here_us_per_token"),
            idle_us_per_s=median(idle, "here_us_per_idle_s"),
            connection_kb=median(idle, "kb_per_connection"),
            joins_per_s=median(joined, "joins_per_s"),
            redis_token_us=median(quiet, "redis_us_per_token"),
            redis_told_token_us=median(told, "redis_us_per_token"),
            redis_turn_us=median(f"{turn}, one node of many", "redis_us_per_turn"),
            redis_idle_us_per_s=median(idle, "redis_us_per_idle_s"),
            redis_connection_bytes=median(idle, "redis_bytes_per_connection"),
            redis_turn_bytes=median(TURN_IN_REDIS, "bytes_per_turn"),
            postgres_turn_us=median(quiet, "postgres_us_per_turn"),
            renew_us=median("10000 open turns", "renew_us_per_lease"),
            lapsed_us=(many - few) * 1_000 / 9_000,
            log_turn_bytes=median(quiet, "log_bytes_per_turn"),
            stored_turn_bytes=median(KEPT.name, "stored_bytes_per_turn"),
            wire_token_bytes=median(quiet, "wire_bytes_per_token"),
        )


TURN_IN_REDIS = Flood().name


@dataclass(frozen=True)
class Needed:
    """What so many users need at the peak."""

    users: int
    connections: float
    running: float
    turns_per_s: float
    tokens_per_s: float
    nodes: int
    told: float
    node_cores: float
    memory_gb: float
    egress_gbit_per_s: float
    redis_cores: float
    redis_shards: int
    redis_gb: float
    queue_cores: float
    queues: int
    transactions_per_s: float
    postgres_cores: float
    log_mb_per_s: float
    postgres_shards: int
    gb_per_day: float
    lapsed_cores: float
    gpus: int


def needed(users: int, a: Assumed, c: Costs) -> Needed:
    """Multiply."""
    turns_per_s = users * a.turns_per_minute / 60
    running = turns_per_s * a.tokens_per_turn / a.tokens_per_s
    tokens_per_s = turns_per_s * a.tokens_per_turn
    connections = users * a.connections_per_user
    nodes, node_cores = _nodes(tokens_per_s, connections, a, c)
    told, _ = a.listening(nodes)
    redis_us = tokens_per_s * ((1 - told) * c.redis_token_us + told * c.redis_told_token_us)
    redis_cores = (redis_us + connections * c.redis_idle_us_per_s) / 1e6
    queue_cores = turns_per_s * c.redis_turn_us / 1e6
    looks_per_s = nodes / 1.8
    postgres_cores = (turns_per_s * c.postgres_turn_us + running / 1.8 * c.renew_us) / 1e6
    log_mb_per_s = turns_per_s * c.log_turn_bytes / 1e6
    return Needed(
        users=users,
        connections=connections,
        running=running,
        turns_per_s=turns_per_s,
        tokens_per_s=tokens_per_s,
        nodes=nodes,
        told=told,
        node_cores=node_cores,
        memory_gb=connections * c.connection_kb / 1e6,
        egress_gbit_per_s=tokens_per_s * a.connections_per_user * c.wire_token_bytes * 8 / 1e9,
        redis_cores=redis_cores,
        redis_shards=math.ceil(redis_cores / a.busy_redis),
        redis_gb=(running * c.redis_turn_bytes + connections * c.redis_connection_bytes) / 1e9,
        queue_cores=queue_cores,
        queues=math.ceil(queue_cores / a.busy_redis),
        transactions_per_s=turns_per_s * 2 + running + 2 * looks_per_s,
        postgres_cores=postgres_cores,
        log_mb_per_s=log_mb_per_s,
        postgres_shards=max(
            math.ceil(postgres_cores / (a.postgres_cores * a.busy_postgres)),
            math.ceil(log_mb_per_s / a.postgres_log_mb_per_s),
        ),
        gb_per_day=turns_per_s * a.daily_mean * DAY_S * c.stored_turn_bytes / 1e9,
        lapsed_cores=looks_per_s * running * c.lapsed_us / 1e6,
        gpus=math.ceil(tokens_per_s / a.tokens_per_s_of_gpu),
    )


def _nodes(tokens_per_s: float, connections: float, a: Assumed, c: Costs) -> tuple[int, float]:
    """How many nodes, at least two, and the cores that they use; each makes tabs lie elsewhere."""
    nodes, cores = 2, 0.0
    while True:
        told, others = a.listening(nodes)
        near = a.connections_per_user - 1 - others
        us = c.token_us + told * (c.told_token_us - c.token_us)
        us += others * c.heard_token_us + near * c.tab_token_us
        cores = (tokens_per_s * us + connections * c.idle_us_per_s) / 1e6
        if (enough := math.ceil(cores / a.busy_node)) <= nodes:
            return nodes, cores
        nodes = enough
