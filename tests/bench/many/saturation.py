"""How much one Redis carries: the very commands of brokers, made beforehand and sent in a flood.

Whoever makes these commands, and whoever hears of them, is a plain socket that reads without
looking, so that Redis is what has the most to do.
"""

import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway.brokers.layout import Entry, Layout
from gateway.nodes.asking import Call, packed
from protocol.cursor import Cursor
from protocol.server_frames import token_frame
from tests.bench.machine import on
from tests.bench.many import counted
from tests.bench.many.meter import speed_while, used
from tests.bench.many.site import REDIS, Servers
from tests.bench.many.voices import PREFIX, TURN, ending_of, session_name, start_of
from tests.bench.measure import Figures, Record
from tests.bench.text import token_text

_READ_BYTES = 1 << 18
_WITHIN_S = 60.0
NODES = 4


@dataclass(frozen=True, kw_only=True)
class Flood:
    """What is sent: each of some nodes runs `sessions` turns of `tokens` tokens.

    `depth` sessions share a pipeline, `merged` tokens a command. Of each session `far` other nodes
    hear; `echo` is whether the node that publishes hears it too, as brokers do.
    """

    sessions: int = 100
    tokens: int = 256
    depth: int = 32
    merged: int = 1
    far: int = 1
    echo: bool = True

    @property
    def name(self) -> str:
        """What it is like, in words."""
        nodes = f"{self.far} other node{'' if self.far == 1 else 's'}"
        words = f"heard by {nodes}, {self.depth} sessions in a pipeline, tokens by {self.merged}"
        return words if self.echo else f"{words}, no echo"

    @property
    def total(self) -> int:
        """How many tokens that is."""
        return NODES * self.sessions * self.tokens


class Script:
    """One session's commands in their order, and what is heard of them, in bytes."""

    def __init__(self, layout: Layout, slot: int, flood: Flood) -> None:
        self.channel = layout.news(session_name(slot))
        self.heard_bytes = 0
        self.calls: list[Call] = []
        session, length, since = session_name(slot), 0, Cursor(TURN, 1, 0)
        opening: list[Entry] = [("begin", start_of(slot).frame().text)]
        self.calls.append(layout.begin(session, since, self._heard(layout, opening)))
        for first in range(0, flood.tokens, flood.merged):
            last = min(first + flood.merged, flood.tokens)
            text = "".join(token_text(slot, 0, index) for index in range(first, last))
            length += len(text)
            upto = Cursor(TURN, 1, length)
            entries: list[Entry] = [("text", token_frame(upto, text, last).text)]
            told = self._heard(layout, entries)
            self.calls.append(layout.go_on(session, told, since=since, upto=upto))
            since = upto
        self.before_end_bytes = self.heard_bytes
        ending: list[Entry] = [("end", f"{length} {ending_of(slot, flood.tokens).text}")]
        self.end = layout.end(session, TURN, 1, self._heard(layout, ending))

    def _heard(self, layout: Layout, entries: list[Entry]) -> list[Entry]:
        for kind, body in entries:
            payload = f"{layout.node} {TURN}.1 {kind} {body}".encode()
            message = packed("message", self.channel, payload.decode())
            self.heard_bytes += len(message)
        return entries


class Peer:
    """One connection to Redis that a node has."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.socket = socket.create_connection((parts.hostname, parts.port or 6379))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.awaited = 0
        """How much is still to be read: of a publisher, answers; of a listener, bytes."""

    def read(self) -> None:
        """Read what there is; raises `WrongAnswer`."""
        self.awaited -= len(self.socket.recv(_READ_BYTES))

    def ask(self, *command: str) -> None:
        """Send something and wait for the first of its answer."""
        self.socket.sendall(packed(*command))
        self.socket.recv(_READ_BYTES)


class WrongAnswer(RuntimeError):
    """Redis did not do what it was asked to."""


class Publisher(Peer):
    """Sends pipelines, each once the one before it is answered."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.pipelines: list[tuple[bytes, int]] = []
        self._last = 0

    def send(self) -> None:
        """Send the next pipeline, if there is one."""
        if self.pipelines:
            sent, self._last = self.pipelines.pop()
            self.awaited += self._last
            self.socket.sendall(sent)

    def read(self) -> None:
        data = self.socket.recv(_READ_BYTES)
        if b"-" in data or b"$" in data:  # numbers alone say that all is well
            raise WrongAnswer(data[:200].decode(errors="replace"))
        self.awaited -= data.count(b"\n")
        # Always one more on its way, so that Redis need not wait for us.
        if self.awaited <= self._last:
            self.send()

    def load(self, calls: Sequence[Call]) -> None:
        """Let Redis know the scripts."""
        for script in {call.script for call in calls}:
            self.ask("SCRIPT", "LOAD", script.lua)

    def plan(self, rows: Sequence[Sequence[Call]], depth: int) -> None:
        """Make pipelines of what each session sends, call by call."""
        calls = [
            [row[at] for row in rows[first : first + depth] if at < len(row)]
            for at in range(max(map(len, rows)))
            for first in range(0, len(rows), depth)
        ]
        self.pipelines = [
            (b"".join(packed(*call.command) for call in some), len(some))
            for some in reversed(calls)
        ]


def flooded(given: Servers, number: int, *, flood: Flood) -> Record:
    """Send a flood; what arrives is counted by the byte."""
    cores, fast_ns = given.bench.cores, given.bench.fast_ns
    layouts = [Layout(PREFIX, f"gateway-{node}-12345-0123abcd", 60_000) for node in range(NODES)]
    scripts = [
        [Script(layout, node * flood.sessions + at, flood) for at in range(flood.sessions)]
        for node, layout in enumerate(layouts)
    ]
    with given.redis() as redis, on(cores.contender), ExitStack() as stack:
        pids = {REDIS: counted.pid_of(redis.url)}
        publishers = [stack.enter_context(_publisher(redis.url, those)) for those in scripts]
        listeners = [
            stack.enter_context(_listener(redis.url, those)) for those in _heard(scripts, flood)
        ]
        empty = counted.redis_bytes(redis.url)
        for publisher, those in zip(publishers, scripts, strict=True):
            publisher.plan([script.calls for script in those], flood.depth)
        commands, before = counted.redis_commands(redis.url), used(pids)
        _exchange(publishers, listeners)
        spent = used(pids).since(before)
        calls = counted.redis_commands(redis.url) - commands
        full = counted.redis_bytes(redis.url)
        for publisher, those in zip(publishers, scripts, strict=True):
            publisher.plan([[script.end] for script in those], flood.depth)
        for listener, those in zip(listeners, _heard(scripts, flood), strict=True):
            listener.awaited = sum(s.heard_bytes - s.before_end_bytes for s in those)
        _exchange(publishers, listeners)
    speed = speed_while(None, cores, fast_ns, for_s=0.3)
    figures: Figures = {
        "tokens_per_s": flood.total / spent.at_s,
        "publishes_per_s": calls["publish"] / spent.at_s,
        "redis_busy_cores": spent.cpu_s[REDIS] / spent.at_s,
        "redis_us_per_token": spent.cpu_s[REDIS] * speed.others * 1e6 / flood.total,
        "bytes_per_turn": (full - empty) / (NODES * flood.sessions),
        "noise_cores": spent.noise_cores(),
        "speed": speed.others,
    }
    return Record(flood.name, "flood", number, (), figures)


def _heard(scripts: list[list[Script]], flood: Flood) -> list[list[Script]]:
    """What each node hears: its own sessions, and those of the nodes before it."""
    return [
        [
            script
            for back in range(0 if flood.echo else 1, flood.far + 1)
            for script in scripts[node - back]
        ]
        for node in range(NODES)
    ]


@contextmanager
def _publisher(url: str, scripts: list[Script]) -> Iterator[Publisher]:
    publisher = Publisher(url)
    with publisher.socket:
        publisher.load([*scripts[0].calls, scripts[0].end])
        yield publisher


@contextmanager
def _listener(url: str, scripts: list[Script]) -> Iterator[Peer]:
    listener = Peer(url)
    with listener.socket:
        for script in scripts:
            listener.ask("SUBSCRIBE", script.channel)
        listener.awaited = sum(script.before_end_bytes for script in scripts)
        yield listener


def _exchange(publishers: list[Publisher], listeners: list[Peer]) -> None:
    """Send all pipelines, and read until everything is answered and heard."""
    until = time.monotonic() + _WITHIN_S
    with selectors.DefaultSelector() as selector:
        for peer in (*publishers, *listeners):
            selector.register(peer.socket, selectors.EVENT_READ, peer)
        for publisher in publishers:
            publisher.send()
            publisher.send()
        while any(peer.awaited > 0 for peer in (*publishers, *listeners)):
            if time.monotonic() > until:
                raise WrongAnswer("not everything was heard in time")
            for key, _ in selector.select(1.0):
                key.data.read()
    if any(peer.awaited for peer in listeners):
        raise WrongAnswer("more was heard than was said")
