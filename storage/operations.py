"""An operation is a conversation with the database, written without awaiting.

It is a generator that yields a statement and its parameters, receives the rows, and returns its
result. What runs it decides where the statements go: on SQLite a whole batch of operations runs
in one visit to the writer's thread, which is what makes group commit cheap; on PostgreSQL each
statement is awaited. Operations hold the decisions, so they can be tested without a loop.

>>> def exists(session_id: str) -> Operation[bool]:
...     rows = yield SELECT_SESSION, {"session_id": session_id}
...     return bool(rows)
"""

from collections.abc import Generator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from sqlalchemy import Executable


class Row(Protocol):
    """One row, by column name."""

    def __getitem__(self, column: str, /) -> Any: ...


T = TypeVar("T")
Parameters = Mapping[str, Any]
Operation = Generator[tuple[Executable, Parameters], Sequence[Row], T]


class StorageError(Exception):
    """The database could not do what it was asked to; nothing of it is stored.

    Unless it is `MaybeStored`.
    """


class MaybeStored(StorageError):
    """The database went away while it committed: it is stored as a whole, or nothing of it is.

    Whoever tries again has to expect either.
    """
