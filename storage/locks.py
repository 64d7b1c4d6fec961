"""Locks that no row stands for."""

from typing import Any

from sqlalchemy import Integer, Text, bindparam, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

_OURS = 0x6D69646D
"""Any number that nobody else who uses the database takes: `midm` in ASCII."""


class _migration_lock(FunctionElement[int]):  # noqa: N801 - reads as a function of SQL
    """Wait until no other transaction holds the lock, and hold it until this one ends."""

    type = Integer()
    inherit_cache = True


@compiles(_migration_lock, "postgresql")
def _migration_on_postgresql(*_: Any, **__: Any) -> str:
    return f"pg_advisory_xact_lock({_OURS})"


@compiles(_migration_lock, "sqlite")
def _migration_on_sqlite(*_: Any, **__: Any) -> str:
    return "1"  # there is one writer anyway


class _named_lock(FunctionElement[int]):  # noqa: N801 - reads as a function of SQL
    """The same, for whoever names the same name."""

    type = Integer()
    inherit_cache = True


@compiles(_named_lock, "postgresql")
def _named_on_postgresql(element: Any, compiler: Any, **options: Any) -> str:
    # Of two numbers: in another space than the one above.
    name = compiler.process(element.clauses, **options)
    return f"pg_advisory_xact_lock({_OURS}, hashtext({name}))"


@compiles(_named_lock, "sqlite")
def _named_on_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    return f"length({compiler.process(element.clauses, **options)})"  # one writer anyway


MIGRATE_ALONE = select(_migration_lock().label("alone"))
"""The first statement of a transaction that migrates: several nodes may start at once."""

ALONE = select(_named_lock(bindparam("name", type_=Text)).label("alone"))
"""A statement that waits until no other transaction is behind it with the same `name`."""
