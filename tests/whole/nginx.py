"""nginx, as compose.yaml configures it, in front of gateways that run on ports of this machine.

Only what names a place is replaced: where it listens, where the gateways are, where its own files
lie.
"""

import asyncio
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from tests.bench.nginx import program as find_program
from tests.faults.killing import held_port
from tests.whole.processes import Program, running

COMPOSE = Path(__file__).parents[2] / "compose.yaml"
STARTS_WITHIN_S = 10.0

_LISTEN = re.compile(r"(?<=listen )8080(?=;)")
_GATEWAY = re.compile(r"^ *server (gateway-(\d+):8080 resolve) .*;\n", re.MULTILINE)


def is_installed() -> bool:
    """Whether there is an nginx to run."""
    return find_program() is not None


def compose_configuration() -> str:
    """What nginx reads in its container."""
    content: str = _compose()["configs"]["nginx"]["content"]
    return re.sub(r"\$(.)", _without_dollar, content)


def configuration(port: int, gateways: Sequence[int]) -> str:
    """The same for nginx on a port of this machine, in front of gateways on others."""
    listening, count = _LISTEN.subn(f"127.0.0.1:{port}", compose_configuration())
    assert count == 1

    def place(found: re.Match[str]) -> str:
        index = int(found[2]) - 1
        if index >= len(gateways):
            return ""
        return found[0].replace(found[1], f"127.0.0.1:{gateways[index]}")

    placed = _GATEWAY.sub(place, listening)
    assert all(f"127.0.0.1:{gateway} " in placed for gateway in gateways), "it knows fewer"
    return placed


@asynccontextmanager
async def nginx(directory: Path, gateways: Sequence[int], **changes: str) -> AsyncIterator[Program]:
    """Run nginx in front of gateways, until it listens at its `url`.

    `changes` are other values for directives that occur once.
    """
    found = find_program()
    assert found is not None
    place = directory / "nginx"
    place.mkdir()
    with held_port() as port:
        (place / "nginx.conf").write_text(_changed(configuration(port, gateways), changes))
        async with running(found, *_arguments(place), directory=place) as program:
            program.url = f"http://127.0.0.1:{port}"
            try:
                await _listens(program, port)
                yield program
            finally:
                # Killed, it would leave its workers behind.
                with suppress(ProcessLookupError):
                    program.send(signal.SIGTERM)
                await program.ended()


def _compose() -> dict[str, Any]:
    whole: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return whole


def _without_dollar(found: re.Match[str]) -> str:
    assert found[1] == "$", "Compose would replace a variable here"
    return "$"


def _arguments(place: Path) -> list[str]:
    """What it is given in its container, its places replaced."""
    service = _compose()["services"]["nginx"]
    [config] = service["configs"]
    program, *arguments = service["command"]
    assert program == "nginx"
    placed = [
        str(place) if before == "-p" else str(place / "nginx.conf") if before == "-c" else argument
        for before, argument in pairwise([program, *arguments])
    ]
    assert config["target"] in arguments
    if os.geteuid() == 0:
        # Its workers would be somebody who cannot enter the folders of a test.
        placed[-1] += " user root;"
    return placed


def _changed(text: str, changes: dict[str, str]) -> str:
    for directive, value in changes.items():
        text, count = re.subn(rf"(?<=\b{directive} )[^;]*(?=;)", value, text, count=1)
        assert count == 1, directive
    return text


async def _listens(program: Program, port: int) -> None:
    """Wait until it takes connections; it says nothing when it does."""
    async with asyncio.timeout(STARTS_WITHIN_S):
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            assert not program.err, program.err
            await asyncio.sleep(0.02)
