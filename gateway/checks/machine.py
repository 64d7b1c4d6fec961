"""This machine: whether the port is free, and how many files may be open."""

import asyncio
import errno
import json
import resource
import socket

import httpx

from gateway.checks.finding import Finding, ok, warning, wrong
from gateway.listening import MAX_OPEN_FILES, PeerLimits
from gateway.server import cannot_listen, url_here
from gateway.settings import Settings

PORT = "port"
FILES = "open files"
ANSWER_S = 2.0
MAX_BODY_BYTES = 64 * 1024


async def check_port(settings: Settings) -> list[Finding]:
    """See whether the gateway could listen; what is there already is asked what it is."""
    host, port = settings.host, settings.port
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, address in found:
            _bind(socket.socket(family, kind, protocol), address)
    except UnicodeError:
        return [wrong(PORT, f"{host!r} is no host name", "correct HOST")]
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return [await _who_is_there(host, port)]
        return [wrong(PORT, str(cannot_listen(host, port, error)), "correct HOST or PORT")]
    return [ok(PORT, f"{host}:{port} is free")]


async def check_files(settings: Settings) -> list[Finding]:
    """Compare how many connections are let in with how many files may be open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    room = most - PeerLimits().spare_files
    wanted = settings.max_connections
    if not wanted:
        return [ok(FILES, f"{most}, and no limit to connections but that")]
    if wanted > room:
        says = f"MAX_CONNECTIONS is {wanted}, and there is room for {max(room, 0)}"
        return [warning(FILES, says, f"lower it, or raise `ulimit -n` ({most}) beyond it")]
    return [ok(FILES, f"{most}, enough for MAX_CONNECTIONS {wanted}")]


def _bind(own: socket.socket, address: object) -> None:
    with own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if own.family == socket.AF_INET6:
            own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        own.bind(address)  # type: ignore[arg-type]  # as getaddrinfo gave it


async def _who_is_there(host: str, port: int) -> Finding:
    try:
        async with asyncio.timeout(ANSWER_S):
            is_gateway = await _answers_as_gateway(f"{url_here(host, port)}/api/health")
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError):
        is_gateway = False
    if is_gateway:
        says = f"a gateway listens on {host}:{port} already"
        return warning(PORT, says, "fine if it is this one; else set another PORT")
    return wrong(PORT, f"another program listens on {host}:{port}", "stop it, or set another PORT")


async def _answers_as_gateway(url: str) -> bool:
    async with (
        httpx.AsyncClient(trust_env=False) as client,
        client.stream("GET", url) as answer,
    ):
        body = bytearray()
        async for piece in answer.aiter_bytes():
            body += piece
            if len(body) > MAX_BODY_BYTES:
                return False
    try:
        health = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(health, dict) and "llm_server_available" in health
