"""The proxies of the first README, run in front of a gateway with the very lines that stand there.

Only what names a place is replaced: where they listen, where the gateway is, where certificates
lie. Both speak TLS, with a certificate of the test's own.
"""

import asyncio
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.bench.nginx import program as find_nginx
from tests.faults.killing import held_port
from tests.readmes import FIRST, blocks
from tests.whole.nginx import STARTS_WITHIN_S
from tests.whole.processes import Program, running

SITE = "chat.example.org"
GATEWAY = "127.0.0.1:8080"

_AROUND_NGINX = """
daemon off;
pid nginx.pid;
error_log stderr crit;
{user}
events {{}}
http {{
    access_log off;
    client_body_temp_path client_body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
{block}
}}
"""
_ABOVE_CADDY = """{{
    admin off
    auto_https disable_redirects
    storage file_system {directory}
    log {{
        level ERROR
    }}
}}
"""


@dataclass(frozen=True)
class Front:
    """A proxy that listens for the site, and the gateway's port behind it."""

    port: int
    trust: ssl.SSLContext
    program: Program

    @property
    def host(self) -> str:
        return f"{SITE}:{self.port}"

    @property
    def complaints(self) -> list[str]:
        """What it wrote: nginx only of troubles, Caddy also of itself and of clients that left."""
        own = re.compile(r'"level":"(?:info|warn)"|context canceled')
        return [line for line in self.program.out + self.program.err if not own.search(line)]


@dataclass(frozen=True)
class _Place:
    directory: Path
    port: int
    gateway_port: int

    @property
    def certificate(self) -> Path:
        return self.directory / "site.pem"

    @property
    def key(self) -> Path:
        return self.directory / "site.key"


def gateway_settings() -> dict[str, str]:
    """What the README tells the gateway behind a proxy."""
    [line] = [
        line
        for block in blocks(FIRST.read_text(), "sh")
        for line in block.splitlines()
        if "TRUSTED_PROXIES=" in line
    ]
    words = shlex.split(line)
    assert words[-1] == ".venv/bin/midm-gateway"
    return dict(word.split("=", 1) for word in words[:-1])


def find_caddy() -> str | None:
    """Where Caddy is, or None."""
    return shutil.which("caddy")


@asynccontextmanager
async def front(kind: str, directory: Path, gateway_port: int) -> AsyncIterator[Front]:
    """Run `nginx` or `caddy` in front of a gateway, until it listens."""
    place_of, signal_to_end = {
        "nginx": (_nginx, signal.SIGQUIT),
        "caddy": (_caddy, signal.SIGTERM),
    }[kind]
    with held_port() as port:
        place = _Place(directory, port, gateway_port)
        _write_certificate(place)
        command = place_of(place)
        async with running(*command, directory=directory, HOME=str(directory)) as program:
            trust = ssl.create_default_context(cafile=str(place.certificate))
            try:
                await _listens(program, port)
                yield Front(port, trust, program)
            finally:
                with suppress(ProcessLookupError):
                    program.send(signal_to_end)
                await program.ended()


async def _listens(program: Program, port: int) -> None:
    """Wait until it takes connections: Caddy tells of itself before, and nginx says nothing."""
    try:
        async with asyncio.timeout(STARTS_WITHIN_S):
            while True:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        return
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"it does not listen: {program.err}") from None


def _nginx(place: _Place) -> list[str]:
    [block] = blocks(FIRST.read_text(), "nginx")
    block = _replaced(block, r"listen 443 ssl;", f"listen 127.0.0.1:{place.port} ssl;")
    block = _replaced(block, r"(?<=ssl_certificate )[^;]+", str(place.certificate))
    block = _replaced(block, r"(?<=ssl_certificate_key )[^;]+", str(place.key))
    block = _replaced(block, re.escape(GATEWAY), f"127.0.0.1:{place.gateway_port}")
    # Its workers would be somebody who cannot enter the folders of a test.
    user = "user root;" if os.geteuid() == 0 else ""
    file = place.directory / "nginx.conf"
    file.write_text(_AROUND_NGINX.format(user=user, block=block))
    found = find_nginx()
    assert found is not None
    return [found, "-p", str(place.directory), "-e", "stderr", "-c", str(file)]


def _caddy(place: _Place) -> list[str]:
    [block] = blocks(FIRST.read_text(), "caddy")
    block = _replaced(block, re.escape(GATEWAY), f"127.0.0.1:{place.gateway_port}")
    here = f"{SITE}:{place.port} {{\n    bind 127.0.0.1\n    tls {place.certificate} {place.key}"
    block = _replaced(block, re.escape(f"{SITE} {{"), here)
    file = place.directory / "Caddyfile"
    file.write_text(_ABOVE_CADDY.format(directory=place.directory) + block)
    found = find_caddy()
    assert found is not None
    return [found, "run", "--config", str(file), "--adapter", "caddyfile"]


def _replaced(text: str, pattern: str, by: str) -> str:
    changed, count = re.subn(pattern, lambda _: by, text)
    assert count == 1, pattern
    return changed


def _write_certificate(place: _Place) -> None:
    """Sign one for the site by itself, for an hour."""
    place.directory.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SITE)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SITE)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    place.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    place.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
