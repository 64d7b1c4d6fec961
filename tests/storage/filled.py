"""Sessions with messages that nobody had to say."""

from collections.abc import Iterable

from sqlalchemy import insert

from storage import sessions
from storage.operations import Operation
from storage.tables import QUESTION, REPLY, message_order, messages, turns

ENDED = "2026-01-31T09:30:00.000000Z"

_MESSAGE = insert(messages)
_TURN = insert(turns)
_PLACE = insert(message_order)
_NOTHING = dict.fromkeys(("request_id", "fingerprint", "replaces", "replaced_by", "checkpoint"))


def filled(
    session_id: str, exchanges: Iterable[tuple[str, str]], *, first: int = 1
) -> Operation[None]:
    """Store exchanges of a question and a reply, as the turns from `first` on.

    Messages are called `{session_id}-q1`, `{session_id}-r1` and so on.
    """
    if first == 1:
        yield from sessions.create(session_id, {})
    for turn, texts in enumerate(exchanges, first):
        question, reply = f"{session_id}-q{turn}", f"{session_id}-r{turn}"
        for message_id, role, text in zip(
            (question, reply), ("user", "assistant"), texts, strict=True
        ):
            yield (
                _MESSAGE,
                {
                    "message_id": message_id,
                    "session_id": session_id,
                    "role": role,
                    "content": text,
                    "created_at": ENDED,
                    "token_usage": None,
                },
            )
        yield (
            _TURN,
            {
                "session_id": session_id,
                "turn": turn,
                "attempt": 1,
                "status": "complete",
                **_NOTHING,
                "user_message_id": question,
                "reply_message_id": reply,
                "generation": "{}",
                "finish_reason": "stop",
                "total_tokens": 1,
                "ending": "{}",
                "created_at": ENDED,
                "ended_at": ENDED,
            },
        )
        for message_id, position in ((question, QUESTION), (reply, REPLY)):
            place = {"session_id": session_id, "turn": turn, "position": position}
            yield _PLACE, {"message_id": message_id, **place}
