"""Who is measured: how each contender is started, spoken to, and what it must have stored."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.bench import nginx
from tests.bench.loads import DIRECT, GATEWAY, OBVIOUS, RELAY
from tests.bench.processes import Command
from tests.bench.programs import Programs

ROOT = Path(__file__).parents[2]
DATABASE = "bench.db"
CALLS_AT_ONCE = 2_000

Profile = Mapping[str, str]
"""How a contender is spoken to: options of the load generator, without their dashes."""

FRAMES: Profile = {
    "path": "/ws",
    "sub-path": "/ws?session_id={id}",
    "ready": '"type":"ready"',
    "ready-capture": '"session_id":"',
    "send": '{"type":"chat","message":"{prompt}","max_new_tokens":4096}',
    "only": '"type":"token"',
    "delta": '"content":"',
    "end": '"type":"complete"',
    "error": '"type":"error"',
}
MIDM: Profile = {
    "path": "/chat/stream",
    "send": '{"messages":[{"role":"user","content":"{prompt}"}],"max_new_tokens":4096}',
    "delta": '"content": "',
    "error": '"type": "error"',
}


@dataclass(frozen=True)
class Place:
    """Where a contender runs: its folder, its port, its upstream, the programs in C."""

    directory: Path
    port: int
    upstream_port: int
    programs: Programs

    @property
    def upstream_url(self) -> str:
        """The address of the model server."""
        return f"http://127.0.0.1:{self.upstream_port}"


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to bring the upstream's text to the clients.

    Without a `command` there is nothing in between. `stored` is SQL for what it stored of each
    turn, question and reply; None if it stores nothing.
    """

    name: str
    speaks: Profile
    command: Callable[[Place], Command] | None = None
    stored: str | None = None
    upstream_options: tuple[str, ...] = ()

    @property
    def over_http(self) -> bool:
        """Whether it speaks midm's own stream of events instead of frames on a WebSocket."""
        return self.speaks is MIDM


def _gateway(place: Place) -> Command:
    settings = {
        "PYTHONPATH": str(ROOT),
        "PORT": str(place.port),
        "DATABASE_URL": DATABASE,
        "LLM_SERVER_URL": place.upstream_url,
        "LLM_MAX_CONCURRENCY": str(CALLS_AT_ONCE),
    }
    return Command((sys.executable, "-m", "gateway"), settings)


def _obvious(place: Place) -> Command:
    settings = {
        "PYTHONPATH": str(ROOT),
        "DATABASE": DATABASE,
        "LLM_SERVER_URL": place.upstream_url,
    }
    program = (sys.executable, "-m", "uvicorn", "tests.bench.obvious:app")
    return Command((*program, "--port", str(place.port)), settings)


def _relay(place: Place) -> Command:
    ports = (str(place.port), str(place.upstream_port))
    if (found := nginx.program()) is None:
        return Command((str(place.programs.relay), *ports))
    config = place.directory / "nginx.conf"
    config.write_text(nginx.configuration(place.port, place.upstream_port, place.directory))
    return Command((found, "-p", str(place.directory), "-c", str(config)))


CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(
            name=GATEWAY,
            speaks=FRAMES,
            command=_gateway,
            stored="""
                SELECT q.content, r.content FROM turns t
                JOIN messages q ON q.message_id = t.user_message_id
                JOIN messages r ON r.message_id = t.reply_message_id
                WHERE t.status = 'complete'
            """,
        ),
        Contender(name=DIRECT, speaks=MIDM),
        Contender(name=RELAY, speaks=MIDM, command=_relay),
        Contender(
            name=OBVIOUS,
            speaks=FRAMES,
            command=_obvious,
            stored="""
                SELECT content, reply FROM (
                    SELECT role, content, lead(content)
                    OVER (PARTITION BY session_id ORDER BY id) AS reply FROM messages
                ) WHERE role = 'user'
            """,
        ),
    )
}


def description() -> dict[str, str]:
    """What each contender is, on this machine."""
    return {
        GATEWAY: "python -m gateway",
        DIRECT: "no gateway: the load generator on the upstream",
        RELAY: nginx.version() or "relay.c, for want of nginx",
        OBVIOUS: "tests/bench/obvious.py by uvicorn",
    }
