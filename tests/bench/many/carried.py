"""What Redis and two brokers pay for turns, without any WebSocket: at rising rates, and idle."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from tests.bench.contenders import ROOT
from tests.bench.loadgen import GaveUp
from tests.bench.many import counted
from tests.bench.many.meter import speed_while, used
from tests.bench.many.site import REDIS, Servers
from tests.bench.many.voices import Work
from tests.bench.measure import Figures, Record
from tests.bench.processes import pin, resident_kb, stop

_PROGRAM = (sys.executable, "-m", "tests.bench.many.voices")
_SETTLE_S = 0.5


class Voice:
    """One process of `tests.bench.many.voices`."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.pid = process.pid
        self.output: IO[bytes] = process.stdout
        self._input: IO[bytes] = process.stdin

    def go(self) -> None:
        """Give the word."""
        self._input.write(b"go\n")
        self._input.flush()

    def told(self) -> dict[str, Any]:
        """Wait for the next thing it says; raises `GaveUp`."""
        if not (line := self.output.readline()):
            raise GaveUp("a broker ended without a result")
        said: dict[str, Any] = json.loads(line)
        return said


@contextmanager
def voice(does: str, url: str, work: Work, cores: tuple[int, ...]) -> Iterator[Voice]:
    """Run a broker of one's own until the context ends."""
    numbers = (work.sessions, work.tokens, work.interval_us)
    with subprocess.Popen(
        [*_PROGRAM, does, url, *map(str, numbers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        try:
            pin(process.pid, cores)
            yield Voice(process)
        finally:
            stop(process)


def carried(work: Work, listeners: int) -> str:
    """Say what is carried."""
    return f"{work.sessions} turns, {listeners} listening"


def carry(given: Servers, number: int, *, work: Work, listeners: int = 1) -> Record:
    """Publish turns from one broker, and read them from others, at a steady rate."""
    cores, fast_ns = given.bench.cores, given.bench.fast_ns
    with (
        given.redis() as redis,
        voice("publish", redis.url, work, cores.contender) as speaker,
        _all_listening(redis.url, work, cores.contender, listeners) as ears,
    ):
        speaker.told()
        speaker.go()
        time.sleep(_SETTLE_S)
        pids = {REDIS: counted.pid_of(redis.url), "publish": speaker.pid}
        pids |= {f"listen{index}": ear.pid for index, ear in enumerate(ears)}
        commands, before = counted.redis_commands(redis.url), used(pids)
        speed = speed_while(speaker.output, cores, fast_ns)
        said = speaker.told()
        heard = [ear.told() for ear in ears]
        spent = used(pids).since(before)
        calls = counted.redis_commands(redis.url) - commands
    tokens = said["tokens"]
    figures: Figures = {
        "tokens_per_s": tokens / said["took_s"],
        "late_ms": said["late_s"] * 1e3,
        "redis_us_per_token": spent.cpu_s[REDIS] * speed.others * 1e6 / tokens,
        "redis_busy_cores": spent.cpu_s[REDIS] / spent.at_s,
        "publish_us_per_token": spent.cpu_s["publish"] * speed.gateways * 1e6 / tokens,
        "publishes_per_s": calls["publish"] / said["took_s"],
        "scripts_per_token": calls["evalsha"] / tokens,
        "noise_cores": spent.noise_cores(),
        "speed": speed.others,
    }
    if ears:
        each = sum(spent.cpu_s[f"listen{i}"] for i in range(listeners)) / listeners
        figures["listen_us_per_token"] = each * speed.gateways * 1e6 / tokens
    faults = [f"{ear['wrong']} of {work.sessions} texts are wrong" for ear in heard if ear["wrong"]]
    return Record(carried(work, listeners), "carried", number, tuple(faults), figures)


@contextmanager
def _all_listening(
    url: str, work: Work, cores: tuple[int, ...], count: int
) -> Iterator[list[Voice]]:
    if count == 0:
        yield []
        return
    with (
        voice("listen", url, work, cores) as ear,
        _all_listening(url, work, cores, count - 1) as rest,
    ):
        ear.told()
        ear.go()
        ear.told()
        yield [ear, *rest]


def watched(sessions: int) -> str:
    """Say what is watched."""
    return f"{sessions} sessions"


def watch(given: Servers, number: int, *, sessions: int, for_s: float = 9.0) -> Record:
    """Watch sessions in which nothing happens: what subscriptions and comparing them cost."""
    cores = given.bench.cores
    with (
        given.redis() as redis,
        voice("watch", redis.url, Work(sessions), cores.contender) as watcher,
    ):
        watcher.told()
        pids = {REDIS: counted.pid_of(redis.url), "watch": watcher.pid}
        redis_before, before_kb = counted.redis_bytes(redis.url), resident_kb(watcher.pid)
        watcher.go()
        watcher.told()
        until = time.monotonic() + 10
        while counted.channels(redis.url) < sessions and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(2)  # what was found at first is compared
        redis_bytes, kb = counted.redis_bytes(redis.url), resident_kb(watcher.pid)
        channels = counted.channels(redis.url)
        before = used(pids)
        speed = speed_while(None, cores, given.bench.fast_ns, for_s=for_s)
        spent = used(pids).since(before)
    faults = () if channels == sessions else (f"{channels} channels are subscribed to",)
    per_10_000 = 1e4 / sessions / spent.at_s * 1e3
    figures = {
        "redis_ms_per_s_per_10_000": spent.cpu_s[REDIS] * speed.others * per_10_000,
        "node_ms_per_s_per_10_000": spent.cpu_s["watch"] * speed.gateways * per_10_000,
        "redis_bytes_per_session": (redis_bytes - redis_before) / sessions,
        "node_bytes_per_session": (kb - before_kb) * 1024 / sessions,
        "noise_cores": spent.noise_cores(),
    }
    return Record(watched(sessions), "watched", number, faults, figures)
