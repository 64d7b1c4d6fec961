"""One measurement of whole gateways, from their start to their end, as one record."""

import sqlite3
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path

from redis.exceptions import RedisError

from storage.operations import StorageError
from tests.bench.loadgen import GaveUp, Said
from tests.bench.loads import Load
from tests.bench.many import counted, stored
from tests.bench.many.cases import Case
from tests.bench.many.meter import Speed, Used, speed_while, used
from tests.bench.many.site import NODES, POSTGRES, REDIS, Servers, Site, embedded, shared
from tests.bench.measure import Figures, Record, percentiles, refused, seen, wrong
from tests.bench.processes import DidNotStart, last_words, resident_kb

_SETTLE_S = 0.3
_MAX_FAULTS = 5
FAILURES = (
    DidNotStart,
    GaveUp,
    OSError,  # a time limit among others
    RedisError,
    RuntimeError,
    StorageError,
    sqlite3.Error,
    subprocess.SubprocessError,
)


def measure(given: Servers, number: int, *, case: Case) -> Record:
    """Start some nodes, warm them up, put a load on them, and check what they stored.

    Whatever goes wrong is a fault of the record; nothing is raised.
    """
    with tempfile.TemporaryDirectory(prefix="bench-", dir=given.bench.folder) as name:
        try:
            with _site(given, case, Path(name)) as site:
                site.warm_up()
                time.sleep(_SETTLE_S)
                faults, figures = (
                    _rest(site, case.load) if case.load.hold_s else _turns(site, case.load)
                )
                faults += stored.faults(site, case.load)
        except FAILURES as error:
            faults, figures = [f"{type(error).__name__}: {error}"], {}
        if faults:
            faults = [*faults[:_MAX_FAULTS], *_words(Path(name))]
    return Record(case.name, case.load.name, number, tuple(faults), figures)


def _site(given: Servers, case: Case, directory: Path) -> AbstractContextManager[Site]:
    if case.nodes == 0:
        return embedded(given.bench, directory)
    return shared(given, directory, nodes=case.nodes)


def _words(directory: Path) -> list[str]:
    return [f"{node} said at last: {last_words(directory / node)!r}" for node in NODES]


def _turns(site: Site, load: Load) -> tuple[list[str], Figures]:
    """Let the clients take their turns; only what is used meanwhile counts."""
    with site.clients(load) as clients:
        time.sleep(_SETTLE_S)
        commands, written = _told(site)
        before = used(site.pids)
        clients.go()
        speed = speed_while(clients.output, site.bench.cores, site.bench.fast_ns)
        spent = used(site.pids).since(before)
        result = clients.result()
        commands_then, written_then = _told(site)
    turns = max(result["turns"] / (1 + load.tabs), 1)
    figures = {
        **seen(result, load),
        **_paid(result, load, spent, speed),
        "noise_cores": spent.noise_cores(result["client_cpu_s"]),
        "speed": speed.gateways,
    }
    if load.tabs and result["sub_lag_us"]["n"]:
        figures |= percentiles("far_delay", result["sub_lag_us"])
    if site.redis is not None:
        figures |= {
            "log_bytes_per_turn": (written_then - written) / turns,
            "redis_commands_per_turn": (commands_then - commands) / turns,
        }
    return [*refused(clients.connected), *wrong(result)], figures


def _told(site: Site) -> tuple[int, int]:
    if site.redis is None:
        return 0, 0
    commands = counted.redis_commands(site.redis).total()
    return commands, counted.written_bytes(site.database)


def _paid(result: Said, load: Load, spent: Used, speed: Speed) -> Figures:
    """CPU time of everybody for a token and for a turn, at the full speed of their cores.

    Tokens and turns are those of the model: further tabs make them no more.
    """
    tokens = max(result["tokens"] / (1 + load.tabs), 1)
    turns = max(result["turns"] / (1 + load.tabs), 1)
    figures: Figures = {}
    for name in (*NODES, REDIS, POSTGRES):
        if name in spent.cpu_s:
            us = spent.cpu_s[name] * speed.of(name, NODES) * 1e6
            figures |= {f"{name}_us_per_token": us / tokens, f"{name}_us_per_turn": us / turns}
            figures[f"{name}_busy_cores"] = spent.cpu_s[name] / spent.at_s
    return figures


def _rest(site: Site, load: Load) -> tuple[list[str], Figures]:
    """Connect clients that ask for nothing, and watch what keeping them costs."""
    here = site.pids[NODES[0]]
    on_first = load.clients * (1 if len(site.ports) > 1 else 1 + load.tabs)
    memory_kb, before = resident_kb(here), used(site.pids)
    redis_before = counted.redis_bytes(site.redis) if site.redis else 0
    with site.clients(load) as clients:
        accepted = used(site.pids).since(before)
        time.sleep(1.5)
        kept_kb, resting = resident_kb(here), used(site.pids)
        redis_kept = counted.redis_bytes(site.redis) if site.redis else 0
        cores = site.bench.cores
        speed = speed_while(None, cores, site.bench.fast_ns, for_s=load.hold_s)
        rested = used(site.pids).since(resting)
    figures = {
        "kb_per_connection": (kept_kb - memory_kb) / on_first,
        "accepts_per_s": clients.connected["per_s"],
        "noise_cores": rested.noise_cores(),
        "speed": speed.gateways,
    }
    for name in {NODES[0], REDIS, POSTGRES} & rested.cpu_s.keys():
        factor = speed.of(name, NODES) * 1e6 / load.clients
        figures[f"{name}_us_per_accept"] = accepted.cpu_s[name] * factor
        figures[f"{name}_us_per_idle_s"] = rested.cpu_s[name] * factor / rested.at_s
    if load.tabs:
        figures["joins_per_s"] = clients.connected["subs_per_s"]
        if NODES[1] in accepted.cpu_s:
            us = accepted.cpu_s[NODES[1]] * speed.gateways * 1e6
            figures["there_us_per_join"] = us / (load.clients * load.tabs)
    if site.redis:
        figures["redis_bytes_per_connection"] = (redis_kept - redis_before) / load.clients
    return refused(clients.connected), figures


def keep(given: Servers, number: int, *, load: Load) -> Record:
    """See how many bytes turns leave behind in the database."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=given.bench.folder) as name,
        shared(given, Path(name), nodes=1) as site,
    ):
        site.warm_up()
        before = counted.stored_bytes(site.database)
        with site.clients(load) as clients:
            clients.go()
            result = clients.result()
        kept = counted.stored_bytes(site.database) - before
        faults = [*wrong(result), *stored.faults(site, load)]
    turns = load.clients * load.turns
    figures = {"stored_bytes_per_turn": kept / turns}
    return Record(load.name, "kept", number, tuple(faults), figures)


def count(given: Servers, number: int, *, load: Load) -> Record:
    """Count the statements and commands of turns, and those of a node that has nothing to do."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=given.bench.folder) as name,
        shared(given, Path(name), nodes=1, database=counted.LOGGED) as site,
    ):
        assert site.redis is not None
        site.warm_up()
        with site.clients(load) as clients:
            idle_s = 6.0
            at = [_counts(site)]
            time.sleep(idle_s)
            at.append(_counts(site))
            began = time.monotonic()
            clients.go()
            result = clients.result()
            took_s = time.monotonic() - began
            at.append(_counts(site))
        faults = [*wrong(result), *stored.faults(site, load)]
    figures: Figures = {}
    for kind in at[2]:
        idle_per_s = (at[1][kind] - at[0][kind]) / idle_s
        turns = at[2][kind] - at[1][kind] - idle_per_s * took_s
        figures[f"{kind} a turn"] = round(turns / load.turns, 2)
        figures[f"{kind} idle a second"] = round(idle_per_s, 2)
    return Record(load.name, "counted", number, tuple(faults), figures)


def _counts(site: Site) -> Counter[str]:
    assert site.redis is not None
    time.sleep(_SETTLE_S)  # what is sent when a turn is over already
    sql = {f"sql {kind}": n for kind, n in counted.statements(site.pids[POSTGRES]).items()}
    commands = counted.redis_commands(site.redis)
    redis = {f"redis {name}": n for name, n in commands.items() if name != "info"}
    totals = {"sql": sum(sql.values()), "redis": sum(redis.values())}
    return Counter({**sql, **redis, **totals})
