"""What Redis and PostgreSQL say of themselves."""

import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

from redis import Redis

from tests.servers.postgres import sql

_GONE_AFTER_S = 0.1
"""After that the server has ended the process that answered, which is none of what is measured."""

_STATEMENT = re.compile(r"(?:execute [^:]+|statement): +(\w+)")


def pid_of(redis_url: str) -> int:
    """Find the process of a Redis."""
    return int(_info(redis_url, "server")["process_id"])


def redis_version(redis_url: str) -> str:
    """Which Redis it is."""
    return str(_info(redis_url, "server")["redis_version"])


def redis_bytes(redis_url: str) -> int:
    """How much memory Redis uses."""
    return int(_info(redis_url, "memory")["used_memory"])


def redis_commands(redis_url: str) -> Counter[str]:
    """How often each command was run so far, those inside scripts included."""
    stats = _info(redis_url, "commandstats")
    return Counter({name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()})


def channels(redis_url: str) -> int:
    """How many channels are subscribed to."""
    return int(_info(redis_url, "stats")["pubsub_channels"])


def _info(url: str, section: str) -> dict[str, Any]:
    with Redis.from_url(url) as client:
        found: dict[str, Any] = client.info(section)
        return found


def written_bytes(database_url: str) -> int:
    """How many bytes PostgreSQL has written to its log of changes so far."""
    return int(_asked(database_url, "pg_current_wal_insert_lsn() - '0/0'"))


def stored_bytes(database_url: str) -> int:
    """How many bytes the tables of a database and their indexes take, without dead rows.

    All of it is written anew for that.
    """
    sql(database_url, "VACUUM FULL")
    return int(
        _asked(
            database_url,
            "sum(pg_total_relation_size(oid)) FROM pg_class "
            "WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace",
        )
    )


def _asked(url: str, what: str) -> str:
    [answer] = sql(url, f"SELECT {what}")
    time.sleep(_GONE_AFTER_S)
    return answer


LOGGED = {"log_statement": "all", "log_min_messages": "log"}
"""Settings of a database of which every statement is to be counted."""


def statements(server_pid: int) -> Counter[str]:
    """How many statements of each kind stand in the log of a server, by their first word."""
    # Wherever it was told to write it.
    log = Path(f"/proc/{server_pid}/fd/2").resolve()
    with log.open(errors="replace") as lines:
        found = (_STATEMENT.search(line) for line in lines)
        return Counter(match[1].upper() for match in found if match)
