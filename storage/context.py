"""What was said before a turn, as context for its question."""

from dataclasses import dataclass

from sqlalchemy import bindparam, func, select

from storage.operations import Operation
from storage.tables import messages, turns


@dataclass(frozen=True)
class Exchange:
    """A question and its reply."""

    question: str
    reply: str


_USER = messages.alias("user_message")
_REPLY = messages.alias("reply_message")

# What `str.strip` takes for white space; `trim` without an argument takes spaces alone, and a
# blank reply that is only found out afterwards would keep a good one out of the limit.
_WHITE_SPACE = "".join(filter(str.isspace, map(chr, range(0x3001))))
_CONTEXT = (
    select(_USER.c.content.label("question"), _REPLY.c.content.label("reply"))
    .select_from(turns)
    .join(_USER, _USER.c.message_id == turns.c.user_message_id)
    .join(_REPLY, _REPLY.c.message_id == turns.c.reply_message_id)
    .where(
        turns.c.session_id == bindparam("of_session"),
        turns.c.turn < bindparam("of_turn"),
        turns.c.replaced_by.is_(None),
    )
    # The original took blank questions too, which a model server may not be sent.
    .where(func.trim(_USER.c.content, _WHITE_SPACE) != "")
    .where(turns.c.ended_at.is_not(None), func.trim(_REPLY.c.content, _WHITE_SPACE) != "")
    .order_by(turns.c.turn.desc())
    .limit(bindparam("most"))
)


def context(session_id: str, turn: int, *, most: int, max_chars: int) -> Operation[list[Exchange]]:
    """Read up to `most` active, ended exchanges before a turn, newest first, none blank.

    They end where they would be longer than `max_chars` code points: whoever waits for the model
    keeps them in memory.
    """
    rows = yield _CONTEXT, {"of_session": session_id, "of_turn": turn, "most": most}
    exchanges = []
    for row in rows:
        max_chars -= len(row["question"]) + len(row["reply"])
        if max_chars < 0:
            break
        exchanges.append(Exchange(row["question"], row["reply"]))
    return exchanges
