"""The database: whether it can be opened, written, and has room, without opening it for writing."""

import os
import shutil
import stat
from pathlib import Path

from gateway.checks.finding import Finding, ok, warning, wrong
from gateway.secrets import without_secrets
from gateway.settings import Settings
from storage.inspecting import Schema, Server, is_in_use, postgres_server, sqlite_schema
from storage.operations import StorageError

ABOUT = "database"
TABLES = "database tables"
LITTLE_BYTES = 1024**3
TOO_LITTLE_BYTES = 64 * 1024**2
OLDEST_POSTGRES = 13


async def check_database(settings: Settings) -> list[Finding]:
    """Look at the file, or ask the server."""
    if settings.shared:
        return await _check_server(settings)
    return _check_file(settings.database_path)


def _check_file(path: Path) -> list[Finding]:
    place = _nearest(path.absolute().parent)
    if not place.is_dir():
        return [_unusable(path, f"{place} is no folder")]
    if not path.exists():
        if not os.access(place, os.W_OK | os.X_OK):
            return [_unusable(path, f"nothing can be made in {place}")]
        return [ok(ABOUT, f"{path} is not there yet; the first start makes it"), _room(place)]
    if not path.is_file():
        return [_unusable(path, f"{path} is no file")]
    if not os.access(path, os.R_OK | os.W_OK) or not os.access(place, os.W_OK | os.X_OK):
        do = f"give this user the right to write to it, and to {place}"
        return [wrong(ABOUT, f"{path} cannot be written", do)]
    try:
        schema = sqlite_schema(path)
    except StorageError as error:
        return [_unusable(path, f"{path}: {error}")]
    return [_file(path), *_tables(schema), _room(place)]


def _file(path: Path) -> Finding:
    if is_in_use(path):
        return warning(
            ABOUT, f"{path} is in use by a gateway", "if that is not meant, stop it: one at a time"
        )
    if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        do = f"chmod 600 {path}"
        return warning(ABOUT, f"{path}: other users of this machine may read it", do)
    return ok(ABOUT, f"{path}, {_size(path.stat().st_size)}, can be written")


def _tables(schema: Schema) -> list[Finding]:
    if schema.unknown:
        do = "run that version, or use another database"
        return [wrong(TABLES, f"made by a newer version: {', '.join(schema.unknown)}", do)]
    if schema.is_original:
        do = "copy the file first: the original cannot go on with it afterwards"
        return [warning(TABLES, "those of the original; the first start adopts them", do)]
    if schema.missing:
        return [ok(TABLES, f"the next start applies {', '.join(schema.missing)}")]
    return [ok(TABLES, "up to date")]


def _room(place: Path) -> Finding:
    free = shutil.disk_usage(place).free
    says = f"{_size(free)} free in {place}"
    if free < TOO_LITTLE_BYTES:
        return wrong("disk", says, "make room, or put DATABASE_URL elsewhere")
    if free < LITTLE_BYTES:
        return warning("disk", says, "make room before it is full: nothing is stored then")
    return ok("disk", says)


async def _check_server(settings: Settings) -> list[Finding]:
    where = without_secrets(settings.database_url)
    try:
        server = await postgres_server(settings.database_url)
    except StorageError as error:
        do = "start it, or correct DATABASE_URL; its password, user and database have to be right"
        return [wrong(ABOUT, f"{where}: {error}", do)]
    version = server.version // 10_000
    findings = [*_unfit(server), *_connections(server, settings.database_connections)]
    if not findings:
        findings = [ok(ABOUT, f"{where}, PostgreSQL {version}, can be written")]
    return [*findings, *_tables(server.schema)]


def _unfit(server: Server) -> list[Finding]:
    findings = []
    if server.version // 10_000 < OLDEST_POSTGRES:
        says = f"PostgreSQL {server.version // 10_000} is older than {OLDEST_POSTGRES}"
        findings.append(warning(ABOUT, says, "upgrade it; the tests run 16"))
    if server.encoding != "UTF8":
        do = "create a database in UTF8: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        findings.append(wrong(ABOUT, f"its encoding is {server.encoding}", do))
    if server.read_only:
        do = "name the primary in DATABASE_URL: this one is a standby, or set to read only"
        findings.append(wrong(ABOUT, "it can only be read", do))
    elif server.schema.missing and not server.may_create:
        do = "connect as the owner of the database, or GRANT CREATE ON SCHEMA public"
        findings.append(wrong(ABOUT, "who connects may not make tables there", do))
    return findings


def _connections(server: Server, wanted: int) -> list[Finding]:
    left = server.connections - server.in_use
    says = f"DATABASE_CONNECTIONS is {wanted}, of {server.connections} connections {left} are left"
    if wanted > server.connections:
        return [wrong(ABOUT, says, "lower DATABASE_CONNECTIONS, or raise max_connections")]
    if wanted > left:
        do = "lower DATABASE_CONNECTIONS of the nodes, or raise max_connections"
        return [warning(ABOUT, says, do)]
    return []


def _unusable(path: Path, why: str) -> Finding:
    return wrong(ABOUT, why, f"correct DATABASE_URL, which says {str(path)!r}")


def _nearest(folder: Path) -> Path:
    """Find the folder, or the nearest one above it that is there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _size(count: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GB"
