"""Moving conversations from one database to another, such as from a file to a server.

Each session is copied whole, in one transaction, or not at all; what is there already stays as it
is. So a copy that was cut short is finished by making it again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, insert, select

from storage.database import Database
from storage.operations import Operation
from storage.tables import message_order, messages, owners, sessions, turns

_TABLES = (sessions, owners, messages, turns, message_order)
"""Parents before children. Leases stay behind, for whoever runs turns there takes new ones, and so
do shares: what is open there is nobody's doing."""

_SESSIONS_AT_ONCE = 500
_SOME = (
    select(sessions.c.session_id)
    .where(sessions.c.session_id > bindparam("behind"))
    .order_by(sessions.c.session_id)
    .limit(_SESSIONS_AT_ONCE)
)
_ROWS = [select(table).where(table.c.session_id == bindparam("of_session")) for table in _TABLES]
_INSERTS = [insert(table) for table in _TABLES]
_EXISTS = select(sessions.c.session_id).where(sessions.c.session_id == bindparam("of_session"))

_Rows = Sequence[Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Copied:
    """How many sessions were copied, and how many were there already."""

    copied: int = 0
    already_there: int = 0


async def copy_sessions(
    source: Database, target: Database, told: Callable[[Copied], None]
) -> Copied:
    """Copy every session, telling now and then how far it is; raises `StorageError`.

    Both databases are up to date, and nobody writes to the source meanwhile.
    """
    so_far = Copied()
    behind = ""
    while found := await source.read(_some_sessions(behind)):
        for session_id in found:
            rows = await source.read(_rows_of(session_id))
            new = await target.write(_put(session_id, rows))
            so_far = Copied(so_far.copied + new, so_far.already_there + (not new))
        behind = found[-1]
        told(so_far)
    return so_far


def _some_sessions(behind: str) -> Operation[list[str]]:
    rows = yield _SOME, {"behind": behind}
    return [row["session_id"] for row in rows]


def _rows_of(session_id: str) -> Operation[_Rows]:
    found = []
    for table, statement in zip(_TABLES, _ROWS, strict=True):
        rows = yield statement, {"of_session": session_id}
        found.append([{column.name: row[column.name] for column in table.c} for row in rows])
    return found


def _put(session_id: str, rows_of_tables: _Rows) -> Operation[bool]:
    if (yield _EXISTS, {"of_session": session_id}):
        return False
    for statement, rows in zip(_INSERTS, rows_of_tables, strict=True):
        for row in rows:
            yield statement, row
    return True
