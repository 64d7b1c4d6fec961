"""The tables. `sessions` and `messages` are the original's, to the letter; the rest is ours.

Times are text: UTC, RFC 3339 with `Z`, so that they sort and need no driver's opinion. Nothing is
ordered by them: order comes from `turn` and `position`.
"""

from sqlalchemy import (
    TIMESTAMP,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData()
NOW = text("CURRENT_TIMESTAMP")


class _Time(Text):
    """Text in a column that the original declared `TIMESTAMP`, which SQLite does not mind."""

    __visit_name__ = TIMESTAMP.__visit_name__
    timezone = False


# PostgreSQL would take it at its word.
Time = _Time().with_variant(Text(), "postgresql")

sessions = Table(
    "sessions",
    metadata,
    Column("session_id", Text, primary_key=True),
    Column("created_at", Time, server_default=NOW),
    Column("last_accessed", Time, server_default=NOW),
    Column("metadata", Text),  # JSON
)

Index("sessions_by_age", sessions.c.created_at, sessions.c.session_id)

messages = Table(
    "messages",
    metadata,
    Column("message_id", Text, primary_key=True),
    Column("session_id", Text, ForeignKey("sessions.session_id")),
    Column("role", Text, CheckConstraint("role IN ('user', 'assistant', 'system')")),
    Column("content", Text),
    Column("created_at", Time, server_default=NOW),
    Column("token_usage", Text),  # JSON
)

turns = Table(
    "turns",
    metadata,
    Column("session_id", Text, ForeignKey("sessions.session_id"), primary_key=True),
    Column("turn", Integer, primary_key=True, autoincrement=False),
    Column("attempt", Integer, nullable=False),
    Column(
        "status",
        Text,
        CheckConstraint(
            "status IN ('queued', 'running', 'complete', 'cancelled', 'failed', 'interrupted')"
        ),
        nullable=False,
    ),
    Column("request_id", Text),
    # What the request asked for, as a hash: tells a repeat from another request of the same id.
    Column("fingerprint", Text),
    Column("replaces", Integer),
    Column("replaced_by", Integer),
    # Unique, and so indexed: else deleting a message would look through every turn there is.
    Column("user_message_id", Text, ForeignKey("messages.message_id"), nullable=False, unique=True),
    # Chosen when the turn begins; the row in `messages` is written when it ends.
    Column("reply_message_id", Text, nullable=False),
    Column("generation", Text, nullable=False),  # JSON
    Column("checkpoint", Text),  # the reply so far, while the turn runs
    Column("finish_reason", Text),
    Column("total_tokens", Integer, nullable=False, server_default="0"),
    Column("ending", Text),  # the terminal event, as JSON
    Column("created_at", Text, nullable=False),
    Column("ended_at", Text),
    UniqueConstraint("session_id", "request_id"),
)

OPEN = text("status IN ('queued', 'running')")
Index("one_open_turn", turns.c.session_id, unique=True, sqlite_where=OPEN, postgresql_where=OPEN)
Index("messages_by_session", messages.c.session_id)

# Where a message stands in its session: 0 asks, 1 replies; 2 and up belong to no turn and are
# shown after it.
message_order = Table(
    "message_order",
    metadata,
    Column("message_id", Text, ForeignKey("messages.message_id"), primary_key=True),
    Column("session_id", Text, ForeignKey("sessions.session_id"), nullable=False),
    Column("turn", Integer, nullable=False),
    Column("position", Integer, nullable=False),
    UniqueConstraint("session_id", "turn", "position"),
)

QUESTION, REPLY, STRAY = 0, 1, 2

# Who runs an open turn, where many gateways share the database. A row is small and written every
# few seconds; in `turns` each of these writes would copy the text that is kept there.
leases = Table(
    "leases",
    metadata,
    Column("session_id", Text, ForeignKey("sessions.session_id"), primary_key=True),
    Column("turn", Integer, primary_key=True, autoincrement=False),
    Column("attempt", Integer, nullable=False),
    Column("node", Text, nullable=False),
    # Seconds since 1970 by the clock of the database, the only one that all nodes share.
    Column("expires_at", Double, nullable=False),
    Column("stop", Text),  # why somebody on another node wants the turn to stop
    # How often the turn was left to others on purpose: those attempts are not held against it.
    Column("handed_over", Integer, nullable=False, server_default="0"),
)
Index("leases_by_node", leases.c.node)

# Whose a session is; the tables of the original stay as they are. A session without a row here is
# that of the default owner, whoever that is said to be.
owners = Table(
    "owners",
    metadata,
    Column("session_id", Text, ForeignKey("sessions.session_id"), primary_key=True),
    Column("owner", Text, nullable=False),
)
Index("owners_by_owner", owners.c.owner)

# On whose account an open turn goes; no row is left once it is over.
shares = Table(
    "shares",
    metadata,
    Column("session_id", Text, ForeignKey("sessions.session_id"), primary_key=True),
    Column("turn", Integer, primary_key=True, autoincrement=False),
    Column("account", Text, nullable=False),
)
Index("shares_by_account", shares.c.account)

migrations = Table(
    "migrations",
    metadata,
    Column("name", Text, primary_key=True),
    Column("applied_at", Text, nullable=False),
)
