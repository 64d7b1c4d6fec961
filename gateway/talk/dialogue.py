"""One conversation as a client knows it: where it stands, what it has yet to send.

Nothing here waits. A connection is asked for with `query`; each frame that arrives is handed to
`hear`, which says what there is to see; `due` hands over what is to be sent now, `lost` is told
that the connection broke. That is all it takes to lose nothing and to do nothing twice.
"""

from collections import deque
from dataclasses import dataclass, field
from uuid import uuid4

from gateway.talk.shown import (
    Began,
    Ended,
    Json,
    Refused,
    Said,
    Shown,
    Told,
    Void,
    Waiting,
    page,
    place_in_queue,
)
from protocol.lifecycle import OPEN

MAX_WAITING = 16
"""How many messages may be typed while a reply is being written."""

MISSED = "missed"
_NOTES = {"length": "cut off: as long as it may be", "cancelled": "cancelled"}


@dataclass
class Asked:
    """A request that the gateway has not accepted yet."""

    frame: Json
    sent: bool = False

    @property
    def request_id(self) -> str:
        """What makes sending it twice the same as once."""
        request_id: str = self.frame["request_id"]
        return request_id


@dataclass
class Reply:
    """The reply of the last turn that began; `pieces` is what was shown of it."""

    turn: int
    pieces: list[str] = field(default_factory=list)
    again: str | None = None
    """What it has come to in a later attempt, while that is no more than was shown already."""


class Dialogue:
    """One session and one client of it."""

    def __init__(self, session_id: str | None = None) -> None:
        self.session_id = session_id
        self.ready = False
        self.come_back_ms: int | None = None
        """When the gateway asked to be called again, after it said that it goes away."""
        self.last_words = ""
        """The error that a connection was closed with before it was ready."""
        self._cursor: str | None = None
        self._open: int | None = None
        self._reply: Reply | None = None
        self._asked: deque[Asked] = deque()
        self._ours: set[str] = set()
        self._our_turns: set[int] = set()
        self._controls: list[Json] = []
        self._cancelling: int | None = None
        self._cancel_next = False
        self._gap = False

    @property
    def busy(self) -> bool:
        """Whether a reply is open, or asked for."""
        return self._open is not None or bool(self._asked)

    @property
    def query(self) -> dict[str, str]:
        """What the next connection asks for: this session, from the last event on."""
        found = {"session_id": self.session_id, "after": self._cursor}
        return {name: value for name, value in found.items() if value is not None}

    # What somebody wants

    def ask(self, frame: Json) -> bool:
        """Queue a `chat` or `regenerate` frame; False if too many wait already."""
        if len(self._asked) >= MAX_WAITING:
            return False
        asked = Asked({**frame, "request_id": str(uuid4())})
        # By its number: when it is sent again, the last turn may be another one.
        if frame["type"] == "regenerate" and "turn" not in frame and self._reply is not None:
            asked.frame["turn"] = self._reply.turn
        self._asked.append(asked)
        self._ours.add(asked.request_id)
        return True

    def say(self, frame: Json) -> None:
        """Queue any other frame, to be sent at once or when the connection is there."""
        self._controls.append(frame)

    def cancel(self, turn: int | None = None) -> bool:
        """Stop a reply, by default the one that is open or asked for; False if there is none."""
        if turn is None:
            turn = self._open
        if turn is not None:
            self._cancelling = turn
            self._controls.append({"type": "cancel", "turn": turn})
            return True
        if not self._asked:
            return False
        if self._asked[0].sent:
            self._cancel_next = True
        else:
            self._asked.popleft()
        return True

    # What goes over the wire

    def due(self) -> list[Json]:
        """Take what is to be sent now; a question waits until no reply is open."""
        if not self.ready:
            return []
        frames, self._controls = self._controls, []
        if self._asked and self._open is None and not self._asked[0].sent:
            self._asked[0].sent = True
            frames.append(self._asked[0].frame)
        return frames

    def lost(self) -> None:
        """Note that the connection broke: whether what was sent arrived nobody knows."""
        self.ready = False
        if self._asked:
            self._asked[0].sent = False

    def hear(self, frame: Json) -> list[Shown]:
        """Take the next frame; return what there is to see, in order."""
        self._cursor = frame.get("id", self._cursor)
        match frame:
            case {"type": "ready"}:
                return self._begin(frame)
            case {"type": "accepted"}:
                return self._accept(frame)
            case {"type": "start"}:
                return self._start(frame)
            case {"type": "token", "turn": turn, "content": content}:
                return self._token(turn, content)
            case {"type": "queued", "position": position}:
                return [Waiting(place_in_queue(position, frame.get("eta_ms")))]
            case {"type": "complete", "turn": turn, "finish_reason": reason}:
                return self._end(turn, well=reason != "cancelled", note=_NOTES.get(reason, ""))
            case {"type": "error", "id": _, "turn": turn, "message": message}:
                return self._end(turn, well=False, note=message)
            case {"type": "error"}:
                return self._fail(frame)
            case {"type": "history", "request_id": "missed"}:
                return self._catch_up(frame)
            case {"type": "history"}:
                return [Told(page(frame))]
            case {"type": "pong"}:
                return [Told("the gateway answers")]
            case {"type": "reconnect", "after_ms": after_ms}:
                self.come_back_ms = after_ms
                return [Told("the gateway is about to restart")]
        return []

    def _begin(self, ready: Json) -> list[Shown]:
        self.ready = True
        self.come_back_ms = None
        self._gap = self._cursor is not None and not ready["resumed"]
        self.session_id, self._cursor = ready["session_id"], ready["cursor"]
        was_open, self._open = self._open, (ready["turn"] or {}).get("turn")
        if self._cancelling is not None and self._cancelling == self._open:
            self._controls.append({"type": "cancel", "turn": self._cancelling})
        if not self._gap:
            return []
        if was_open is not None and self._open is None:
            self._look_up()
        return [Told("the gateway cannot go on from where it stopped; /history shows what is kept")]

    def _look_up(self) -> None:
        self._controls.append({"type": "history", "limit": 20, "request_id": MISSED})

    def _accept(self, accepted: Json) -> list[Shown]:
        request_id = accepted.get("request_id")
        if not self._asked or self._asked[0].request_id != request_id:
            return []
        self._asked.popleft()
        turn: int = accepted["turn"]
        self._our_turns.add(turn)
        if accepted["status"] in OPEN:
            self._open = turn
        elif self._gap:
            self._reply = Reply(turn)
            self._look_up()
        if self._cancel_next:
            self._cancel_next = False
            self.cancel(turn)
        return []

    def _start(self, start: Json) -> list[Shown]:
        turn: int = start["turn"]
        self._open = turn
        if self._reply is not None and self._reply.turn == turn:
            self._reply.again = ""
            return [Told("the reply is begun again")]
        self._reply = Reply(turn)
        if start.get("request_id") in self._ours:
            self._our_turns.add(turn)
        return [Began(start["user_message"]["content"])]

    def _token(self, turn: int, content: str) -> list[Shown]:
        reply = self._reply
        if reply is None or reply.turn != turn:
            # It was begun before this client came: all it knows is what follows.
            reply = self._reply = Reply(turn)
        if reply.again is None:
            reply.pieces.append(content)
            return [Said(content)]
        reply.again += content
        return _compared(reply, whole=False)

    def _end(self, turn: int, *, well: bool, note: str) -> list[Shown]:
        shown: list[Shown] = []
        if self._reply is not None and self._reply.again is not None and well:
            shown += _compared(self._reply, whole=True)
        if self._open == turn:
            self._open = None
        if self._cancelling == turn:
            self._cancelling = None
        return [*shown, Ended(turn in self._our_turns, well, note)]

    def _fail(self, error: Json) -> list[Shown]:
        message, request_id = error["message"], error.get("request_id")
        if not self.ready:
            self.last_words = message
            return []
        if not self._asked or self._asked[0].request_id != request_id:
            return [] if error["code"] == "nothing_to_cancel" else [Told(message)]
        if error["code"] == "shutting_down":
            return []  # whoever comes after this gateway is asked again
        self._asked.popleft()
        self._cancel_next = False
        return [Refused(message)]

    def _catch_up(self, history: Json) -> list[Shown]:
        """Find in the history how the reply ended that was open when the way back was lost."""
        reply = self._reply
        if reply is None:
            return []
        for message in history["messages"]:
            if message["turn"] == reply.turn and message["role"] == "assistant":
                reply.again = message["content"]
                reason = message["finish_reason"] or "stop"
                well = reason in ("stop", "length")
                note = _NOTES.get(reason, "" if well else reason)
                return [*_compared(reply, whole=True), Ended(self._is_ours(reply), well, note)]
        return [Ended(self._is_ours(reply), False, "the reply is gone")]

    def _is_ours(self, reply: Reply) -> bool:
        return reply.turn in self._our_turns


def _compared(reply: Reply, *, whole: bool) -> list[Shown]:
    """Show what a later attempt has more than was shown, or all of it where it differs.

    While it is `whole` not yet, the beginning of what was shown is nothing to show.
    """
    again, before = reply.again or "", "".join(reply.pieces)
    if before.startswith(again) and (not whole or again == before):
        return []
    reply.pieces, reply.again = [again], None
    if again.startswith(before):
        return [Said(again[len(before) :])]
    return [Void(), Said(again)]
