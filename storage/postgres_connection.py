"""What happens on one connection to PostgreSQL: its settings, statements, transactions."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import Dialect, Executable
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from protocol.text import storable
from storage.operations import MaybeStored, Operation, Parameters, Row, StorageError
from storage.statements import compiled

T = TypeVar("T")

_DIALECT: Dialect = dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's own

WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

STATEMENT_WITHIN_MS = 5_000
LOCK_WITHIN_MS = 3_000
IDLE_WITHIN_MS = 5_000
"""A node that freezes in the middle of a transaction keeps the others waiting no longer."""

SETTINGS = {
    "application_name": "midm-chat-gateway",
    "statement_timeout": str(STATEMENT_WITHIN_MS),
    "lock_timeout": str(LOCK_WITHIN_MS),
    "idle_in_transaction_session_timeout": str(IDLE_WITHIN_MS),
    "timezone": "UTC",
    # Planning in machine code takes longer than any statement of ours.
    "jit": "off",
}

_STATE = "SELECT current_setting('server_encoding'), current_setting('transaction_read_only')"


class NotBegun(Exception):
    """The connection is of no use any more; nothing of the operation was asked for."""


class PostgresConnection:
    """A kept connection of asyncpg, which one task uses.

    A task that is cancelled here takes the connection with it: nobody meets what it left behind.
    """

    def __init__(self, raw: Any) -> None:
        self.closed = False
        self._raw = raw
        self._late_s: float | None = None
        raw.add_termination_listener(self._note_end)

    async def run(
        self, operation: Operation[T], *, begin: str, begin_within_s: float, within_s: float
    ) -> T:
        """Run an operation in a transaction of its own.

        Raises `NotBegun`, having left the operation as it was; `StorageError` when the database
        fails or answers too late, `MaybeStored` when it does so while it commits; and whatever the
        operation raises.
        """
        try:
            await self._begin(begin, begin_within_s)
            limit = self._limit(within_s)
            try:
                result = await self._conduct(operation)
                await self._commit()
            finally:
                limit.cancel()
        except asyncio.CancelledError:
            self.give_up()
            raise
        return result

    def give_up(self) -> None:
        """Close the connection at once; whoever waits for an answer on it gets an error."""
        self.closed = True
        with suppress(asyncpg.InterfaceError):  # that it is closed already
            self._raw.terminate()

    def _note_end(self, _: object) -> None:
        self.closed = True

    def _limit(self, within_s: float) -> asyncio.TimerHandle:
        # Whoever waits is not cancelled: asyncpg would open another connection to tell the server,
        # over the same broken network, and wait for that.
        return asyncio.get_running_loop().call_later(within_s, self._give_up_late, within_s)

    def _give_up_late(self, within_s: float) -> None:
        self._late_s = within_s
        self.give_up()

    def _reason(self, error: BaseException) -> str:
        late = self._late_s
        return reason(error) if late is None else f"no answer within {late:g} s"

    async def _begin(self, begin: str, within_s: float) -> None:
        limit = self._limit(within_s)
        try:
            await self._raw.execute(begin)
        except Exception as error:
            self.give_up()
            raise NotBegun(self._reason(error)) from None
        finally:
            limit.cancel()

    async def _conduct(self, operation: Operation[T]) -> T:
        try:
            statement, parameters = next(operation)
            while True:
                rows = await self._execute(statement, parameters)
                statement, parameters = operation.send(rows)
        except StopIteration as stop:
            result: T = stop.value
            return result
        except Exception:
            await self._roll_back()
            raise
        finally:
            operation.close()

    async def _execute(self, statement: Executable, parameters: Parameters) -> Sequence[Row]:
        it = compiled(statement, _DIALECT)
        values = [_fit(value) for value in it.values(parameters)]
        try:
            rows: list[Row] = await self._raw.fetch(it.sql, *values)
        except Exception as error:  # whatever the driver meets
            # From nowhere: the driver quotes what was to be stored, and who sees a traceback?
            raise StorageError(self._reason(error)) from None
        return rows

    async def _commit(self) -> None:
        try:
            await self._raw.execute("COMMIT")
        except Exception as error:
            self.give_up()
            raise MaybeStored(f"while it was committed: {self._reason(error)}") from None

    async def _roll_back(self) -> None:
        try:
            await self._raw.execute("ROLLBACK")
        except Exception:  # what was not committed is gone with the connection
            self.give_up()


async def check(raw: Any, *, within_s: float) -> None:
    """See that a new connection leads to a database that can be used; else `StorageError`."""
    limit = asyncio.get_running_loop().call_later(within_s, raw.terminate)
    try:
        [encoding, read_only] = await raw.fetchrow(_STATE)
    finally:
        limit.cancel()
    if encoding != "UTF8":
        raise StorageError(f"its encoding is {encoding}, and should be UTF8")
    if read_only != "off":  # or a standby, after a failover
        raise StorageError("it can only be read")


def reason(error: BaseException) -> str:
    """Say in one line what went wrong, without what was to be stored and who may connect."""
    match error:
        case StorageError():
            return str(error)
        case TimeoutError():
            return "no answer in time"
        case asyncpg.DataError():
            return "a value does not fit its column"  # which the message quotes
        case asyncpg.PostgresError():
            # Not its detail, which quotes rows.
            return str(error.args[0]).partition("\n")[0]
        case ValueError():
            # Of asyncpg, which quotes what it cannot read: perhaps a part of the password.
            return "its URL cannot be read"
        case _:
            return (str(error) or type(error).__name__).partition("\n")[0]


def _fit(value: object) -> object:
    """Make text storable: what is looked up may be anything."""
    if type(value) is not str:
        return value
    if "\0" in value:
        return storable(value)
    try:
        # Ten times as fast as looking for surrogates.
        value.encode()
    except UnicodeEncodeError:
        return storable(value)
    return value
