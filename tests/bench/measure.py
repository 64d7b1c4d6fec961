"""One measurement: a contender under a load, from its start to its end, as one record."""

import sqlite3
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.bench import database
from tests.bench.contenders import DATABASE, Contender
from tests.bench.loadgen import GaveUp, Said
from tests.bench.loads import Load
from tests.bench.processes import DidNotStart, cpu_of, last_words, resident_kb
from tests.bench.scene import Bench, Scene, staged
from tests.bench.usage import Usage, speed_until, usage

_SETTLE_S = 0.3
_MAX_FAULTS = 5

Figures = dict[str, float]


@dataclass(frozen=True)
class Record:
    """One measurement. It is right only if it has no faults; names of figures say their unit."""

    load: str
    contender: str
    round: int
    faults: tuple[str, ...]
    figures: Mapping[str, float]

    @property
    def right(self) -> bool:
        """Whether every byte was right, on every client and in the database."""
        return not self.faults


def measure(bench: Bench, load: Load, contender: Contender, number: int) -> Record:
    """Start a contender, warm it up, put a load on it, stop it, and check what it stored.

    Whatever goes wrong is a fault of the record; nothing is raised.
    """
    with tempfile.TemporaryDirectory(prefix="bench-", dir=bench.folder) as name:
        try:
            with staged(bench, contender, Path(name)) as scene:
                scene.warm_up(load)
                time.sleep(_SETTLE_S)
                faults, figures = _rest(scene, load) if load.hold_s else _turns(scene, load)
            if contender.stored is not None:
                stored = database.stored_turns(Path(name) / DATABASE, contender.stored)
                faults += database.faults(stored, load)
        except (DidNotStart, GaveUp, OSError, sqlite3.Error) as error:
            faults, figures = [f"{type(error).__name__}: {error}"], {}
        if faults:
            faults = [*faults[:_MAX_FAULTS], f"it said at last: {last_words(Path(name))!r}"]
    return Record(load.name, contender.name, number, tuple(faults), figures)


def _turns(scene: Scene, load: Load) -> tuple[list[str], Figures]:
    """Let the clients take their turns; only what is used meanwhile counts."""
    with scene.clients(load) as clients:
        time.sleep(_SETTLE_S)
        before = usage(scene)
        clients.go()
        speed = speed_until(clients.output, scene)
        used = usage(scene).since(before)
        memory_kb = resident_kb(scene.pid) if scene.pid else None
        result = clients.result()
    figures = seen(result, load) | _paid(result, used)
    if memory_kb is not None:
        figures |= _cpu(result, used, speed) | {"resident_mb": memory_kb / 1024}
    return [*refused(clients.connected), *wrong(result)], figures


def _rest(scene: Scene, load: Load) -> tuple[list[str], Figures]:
    """Connect clients that ask for nothing, and watch what keeping them costs."""
    assert scene.pid is not None, "nobody keeps connections here"
    memory_kb, before = resident_kb(scene.pid), cpu_of(scene.pid)
    with scene.clients(load) as clients:
        accepted = cpu_of(scene.pid).since(before)
        time.sleep(1)
        kept_kb, resting = resident_kb(scene.pid), cpu_of(scene.pid)
        time.sleep(load.hold_s)
        rested = cpu_of(scene.pid).since(resting)
        said = clients.connected
    return refused(said), {
        "kb_per_connection": (kept_kb - memory_kb) / load.clients,
        "cpu_us_per_accept": accepted.total_s / load.clients * 1e6,
        "cpu_us_per_idle_connection_s": rested.total_s / load.hold_s / load.clients * 1e6,
        "accepts_per_s": said["per_s"],
        "ready_p50_ms": said["ready_us"]["p50"] / 1000,
        "ready_p99_ms": said["ready_us"]["p99"] / 1000,
        "resident_mb": kept_kb / 1024,
    }


def seen(result: Said, load: Load) -> Figures:
    """What the clients saw: rates and times."""
    wall_s = result["wall_s"] or 1e-9
    figures = {
        "tokens_per_s": result["tokens"] / wall_s,
        "turns_per_s": result["turns"] / wall_s,
        "frames_per_token": result["token_frames"] / max(result["tokens"], 1),
        "wire_bytes_per_token": result["wire_bytes"] / max(result["tokens"], 1),
        **percentiles("first_token", result["ttft_us"]),
        **percentiles("turn", result["turn_us"]),
    }
    if load.interval_us:
        # As fast as it can, a token waits in full sockets, which is no delay of anybody's.
        figures |= percentiles("delay", result["lag_us"])
    if load.churn_per_s:
        figures |= percentiles("ready", result["churn_us"])
        figures["churn_failed"] = result["errors"]["churn"]
    return figures


def percentiles(name: str, measured: Mapping[str, float]) -> Figures:
    """Name the median and the 99th percentile of what was measured in microseconds."""
    return {f"{name}_{which}_ms": measured[which] / 1000 for which in ("p50", "p99")}


def _cpu(result: Said, used: Usage, speed: float) -> Figures:
    """What the contender paid, at the full speed of its core."""
    tokens, turns = max(result["tokens"], 1), max(result["turns"], 1)
    us = 1e6 * speed
    return {
        "cpu_us_per_token": used.contender.total_s * us / tokens,
        "user_us_per_token": used.contender.user_s * us / tokens,
        "system_us_per_token": used.contender.system_s * us / tokens,
        "cpu_us_per_turn": used.contender.total_s * us / turns,
        "raw_cpu_us_per_token": used.contender.total_s * 1e6 / tokens,
        "speed": speed,
        "busy_cores": used.contender.total_s / used.at_s,
    }


def _paid(result: Said, used: Usage) -> Figures:
    """What upstream and clients paid, and how much else went on."""
    tokens = max(result["tokens"], 1)
    return {
        "upstream_us_per_token": used.upstream_s * 1e6 / tokens,
        "clients_us_per_token": result["client_cpu_s"] * 1e6 / tokens,
        "noise_cores": used.noise_cores(result["client_cpu_s"]),
    }


def refused(connected: Said) -> list[str]:
    """Say how many clients could not connect, if any."""
    if not connected["failed"]:
        return []
    return [f"{connected['failed']} clients could not connect: {connected['first_error']}"]


def wrong(result: Said) -> list[str]:
    """Say what was wrong on the clients, if anything."""
    if result["ok"]:
        return []
    counts = {name: count for name, count in result["errors"].items() if count}
    delivered = f"{result['tokens']} of {result['expected']} tokens arrived"
    unfinished = f"{result['stuck']} clients still wait"
    return [f"{delivered}; {unfinished}; errors {counts}; the first: {result['first_error']!r}"]
