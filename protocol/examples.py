"""An example or two of every frame, made of the models themselves: none can be out of date.

They tell one story: a session, its first turn, and what else may be said about it.
"""

from protocol.chat import Model
from protocol.client_frames import (
    HELP,
    Auth,
    Cancel,
    Chat,
    ClientFrame,
    GetHelp,
    GetHistory,
    Ping,
    Regenerate,
)
from protocol.errors import ErrorCode, Refusal
from protocol.server_frames import (
    Accepted,
    Complete,
    Error,
    Help,
    History,
    Limits,
    OpenTurn,
    Pong,
    Queued,
    Ready,
    Reconnect,
    ServerPing,
    Start,
    StoredMessage,
    Timing,
    Token,
    UserMessage,
)

_SESSION = "8308d7c7-aa27-4500-ab0c-89729caed6d0"
_QUESTION = "da1e2ffa-e36a-4ac5-a47d-4ce78de6effd"
_REPLY = "e5403e53-66d1-4d6b-9ec6-78072f89d7e0"
_ASKED = "2026-11-23T15:44:16.603089Z"
_ANSWERED = "2026-11-23T15:44:18.847440Z"
_REQUEST = "a1"
_LIMITS = Limits(max_frame_bytes=524_288)


def _stored(role: str, content: str, message_id: str, created_at: str) -> StoredMessage:
    return StoredMessage.model_validate(
        {
            "message_id": message_id,
            "session_id": _SESSION,
            "role": role,
            "content": content,
            "created_at": created_at,
            "token_usage": None,
            "turn": 1,
            "finish_reason": "stop" if role == "assistant" else None,
        }
    )


EXAMPLES: dict[type[Model], dict[str, Model]] = {
    Chat: {
        "a message": Chat(message="안녕하세요", request_id=_REQUEST),
        "an edit": Chat(message="안녕히 계세요", request_id="a2", replaces=1, temperature=0.3),
    },
    Regenerate: {"the last turn": Regenerate(request_id="a3")},
    Cancel: {"the turn that is shown": Cancel(turn=1)},
    GetHistory: {"the newest": GetHistory(limit=20), "what is older": GetHistory(before=_QUESTION)},
    Auth: {"a key": Auth(token="midm_an_api_key")},  # noqa: S106
    Ping: {"are you there": Ping(request_id="p1")},
    GetHelp: {"what can be typed": GetHelp()},
    Ready: {
        "a new session": Ready(
            session_id=_SESSION,
            created=True,
            resumed=False,
            cursor="0.0.end",
            heartbeat_s=25.0,
            limits=_LIMITS,
            turn=None,
        ),
        "back in the middle of a reply": Ready(
            session_id=_SESSION,
            created=False,
            resumed=True,
            cursor="1.1.4",
            heartbeat_s=25.0,
            limits=_LIMITS,
            turn=OpenTurn(turn=1, status="running"),
        ),
    },
    Accepted: {
        "a message": Accepted(turn=1, request_id=_REQUEST, duplicate=False, status="running"),
        "the same again": Accepted(turn=1, request_id=_REQUEST, duplicate=True, status="complete"),
    },
    Start: {
        "a turn": Start(
            id="1.1.0",
            turn=1,
            attempt=1,
            message_id=_REPLY,
            user_message=UserMessage(message_id=_QUESTION, content="안녕하세요", created_at=_ASKED),
            request_id=_REQUEST,
        )
    },
    Queued: {"third in line": Queued(turn=1, position=3, eta_ms=12_000)},
    Token: {"some text": Token(id="1.1.4", turn=1, content="반갑습니", token_count=1)},
    Complete: {
        "the end of a reply": Complete(
            id="1.1.end",
            turn=1,
            message_id=_REPLY,
            finish_reason="stop",
            total_tokens=52,
            token_usage=None,
            created_at=_ANSWERED,
            timing=Timing(queue_ms=0, first_token_ms=202, duration_ms=2_243),
        )
    },
    Error: {
        "a refusal": Error.of(Refusal(ErrorCode.TURN_IN_PROGRESS), request_id="a4"),
        "the end of a turn": Error.of(Refusal(ErrorCode.UPSTREAM_STALLED)).model_copy(
            update={"id": "1.1.end", "turn": 1, "message_id": _REPLY}
        ),
    },
    History: {
        "two messages": History(
            messages=[
                _stored("user", "안녕하세요", _QUESTION, _ASKED),
                _stored("assistant", "반갑습니다!", _REPLY, _ANSWERED),
            ],
            total_count=2,
            next_before=None,
        )
    },
    ServerPing: {"a sign of life": ServerPing()},
    Pong: {"the answer": Pong(request_id="p1")},
    Reconnect: {"a restart": Reconnect(reason="restart", after_ms=740)},
    Help: {"what can be typed": Help(text=HELP)},
}


def payload(example: Model) -> dict[str, object]:
    """Write an example as it goes over the wire; a client leaves out what it does not say."""
    by_client = isinstance(example, ClientFrame)
    fields = example.model_dump(mode="json", exclude_none=by_client)
    return {"type": fields.pop("type"), **fields}
