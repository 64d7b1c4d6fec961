"""What a client makes of the events it is told: the reference that the fold vectors are held to.

Written to be read by authors of clients. Pure.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

Json = dict[str, Any]

_ENDED = {"stop": "complete", "length": "complete"}


@dataclass
class Turn:
    """A question and its reply, as a user sees them."""

    turn: int
    status: str
    question: str
    reply: str = ""
    error: str | None = None
    replaced_by: int | None = None


@dataclass
class Conversation:
    """All turns that are known, and the cursor to come back with."""

    cursor: str = "0.0.end"
    turns: dict[int, Turn] = field(default_factory=dict)

    def reset(self, page: Json) -> None:
        """Show a page of the history instead of all that was shown."""
        self.turns.clear()
        self.load(page)

    def load(self, page: Json) -> None:
        """Begin with a page of the history."""
        self.cursor = page["cursor"]
        for message in page["messages"]:
            match message:
                case {"turn": int(number), "role": "user", "content": content}:
                    self.turns[number] = Turn(number, "running", content)
                    self.turns[number].replaced_by = message.get("replaced_by")
                case {"turn": int(number), "role": "assistant", "finish_reason": reason}:
                    turn = self.turns[number]
                    turn.reply, turn.status = message["content"], str(_ENDED.get(reason, reason))

    def apply(self, frame: Json) -> None:
        """Take what the server says; what is not known changes nothing."""
        match frame:
            case {"type": "ready", "cursor": cursor}:
                self.cursor = cursor
            case {"type": "start"}:
                self._start(frame)
            case {"type": "queued", "turn": number} if number in self.turns:
                self.turns[number].status = "queued"
            case {"type": "token", "turn": number, "content": content}:
                self.turns[number].status = "running"
                self.turns[number].reply += content
            case {"type": "complete", "turn": number, "finish_reason": reason}:
                self.turns[number].status = str(_ENDED.get(reason, reason))
            case {"type": "error", "turn": number, "code": code}:
                self.turns[number].status = "interrupted" if code == "interrupted" else "error"
                self.turns[number].error = code
        self.cursor = frame.get("id", self.cursor)

    def _start(self, frame: Json) -> None:
        # Whatever the attempt: what was shown of this turn's reply is void.
        number: int = frame["turn"]
        replaces: int = frame.get("replaces", number)
        before = self.turns.get(number)
        self.turns[number] = Turn(number, "running", frame["user_message"]["content"])
        self.turns[number].replaced_by = before.replaced_by if before else None
        for turn in self.turns.values():
            if replaces <= turn.turn < number and turn.replaced_by is None:
                turn.replaced_by = number

    def shown(self) -> Json:
        """Say what is shown, as the vectors write it."""
        ordered = [self.turns[number] for number in sorted(self.turns)]
        still = [turn.turn for turn in ordered if turn.status in ("queued", "running")]
        return {
            "cursor": self.cursor,
            "open": still[-1] if still else None,
            "turns": [asdict(turn) for turn in ordered],
        }
