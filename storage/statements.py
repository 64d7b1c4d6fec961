"""Statements as a driver takes them: SQL and the values of its parameters, in their order."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple, cast

from sqlalchemy import ClauseElement, Dialect, Executable
from sqlalchemy.sql.compiler import SQLCompiler

from storage.operations import Parameters


class Compiled(NamedTuple):
    """The SQL of a statement, the names of its parameters, and the constants among them."""

    sql: str
    names: tuple[str, ...]
    constants: Mapping[str, Any]

    def values(self, parameters: Parameters) -> list[Any]:
        """Put parameters into the order in which the SQL takes them."""
        given = {**self.constants, **parameters} if self.constants else parameters
        return [given[name] for name in self.names]


@lru_cache(maxsize=512)
def compiled(statement: Executable, dialect: Dialect) -> Compiled:
    """Compile a statement; `dialect` numbers its parameters or counts them."""
    # Compiling costs a hundred times what SQLite needs to run the statement; statements are
    # constants of their modules, so each is compiled once.
    result = cast(ClauseElement, statement).compile(dialect=dialect)
    if not isinstance(result, SQLCompiler):  # what defines tables has no parameters
        return Compiled(str(result), (), {})
    constants = {name: bind.value for name, bind in result.binds.items() if not bind.required}
    return Compiled(str(result), tuple(result.positiontup or ()), constants)
