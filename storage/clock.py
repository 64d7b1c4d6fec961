"""The clock of the database: the only one that all nodes share."""

from typing import Any

from sqlalchemy import Double
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class database_now(FunctionElement[float]):  # noqa: N801 - reads as a function of SQL
    """Seconds since 1970 when the statement runs, not when its transaction began."""

    type = Double()
    inherit_cache = True


@compiles(database_now, "postgresql")
def _on_postgresql(*_: Any, **__: Any) -> str:
    # `now()` stands still within a transaction: what waited for a lock would count too little.
    # As a double: `extract` returns a numeric.
    return "extract(epoch from clock_timestamp())::double precision"


@compiles(database_now, "sqlite")
def _on_sqlite(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"
