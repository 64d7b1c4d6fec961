"""Locks that no row stands for."""

from typing import Any

from sqlalchemy import Integer, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

_MIGRATING = 0x6D69646D
"""Any number that nobody else who uses the database takes: `midm` in ASCII."""


class _advisory_lock(FunctionElement[int]):  # noqa: N801 - reads as a function of SQL
    """Wait until no other transaction holds the lock, and hold it until this one ends."""

    type = Integer()
    inherit_cache = True


@compiles(_advisory_lock, "postgresql")
def _on_postgresql(*_: Any, **__: Any) -> str:
    return f"pg_advisory_xact_lock({_MIGRATING})"


@compiles(_advisory_lock, "sqlite")
def _on_sqlite(*_: Any, **__: Any) -> str:
    return "1"  # there is one writer anyway


MIGRATE_ALONE = select(_advisory_lock().label("alone"))
"""The first statement of a transaction that migrates: several nodes may start at once."""
