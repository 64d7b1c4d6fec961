"""What a session is, as simply as it can be said: the gateway is checked against this.

Nothing here waits, stores or sends. What clients are told is said in tuples, which
`tests.faults.clients` makes of frames, too.
"""

from dataclasses import dataclass, field
from typing import Any

from protocol.cursor import END
from tests.llm.scripted import USAGE

Told = tuple[Any, ...]
Place = tuple[int, int]
"""A turn, and how many characters of its reply lie before; `END` behind all of it."""

BEGINNING: Place = (0, END)
MAX_EXCHANGES = 4
MAX_CONTEXT_CHARS = 32_000
"""The gateway's own defaults: ten messages with the question, and so many characters."""


class Refused(Exception):
    """The gateway is to refuse this, with this code."""

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(code)


@dataclass(frozen=True)
class Request:
    """What is asked: `message` None asks again, and `replaces` 0 is the last turn."""

    message: str | None
    replaces: int | None = None
    max_new_tokens: int | None = None


@dataclass
class Turn:
    """One question, and how far its reply has come."""

    number: int
    request: Request
    request_id: str | None
    question: str
    replaces: int | None
    streamed: bool
    status: str
    text: str = ""
    pieces: int = 0
    finish_reason: str | None = None
    replaced_by: int | None = None

    @property
    def over(self) -> bool:
        return self.finish_reason is not None

    @property
    def place(self) -> Place:
        """How far the log has come in this turn."""
        return self.number, END if self.over else len(self.text)

    def start(self) -> Told:
        """What begins it."""
        at = f"{self.number}.1.0"
        return ("start", at, self.number, self.question, self.replaces, self.request_id)

    def tokens(self, seen: int) -> list[Told]:
        """What there is of its text behind a place in it."""
        if seen >= len(self.text):
            return []
        at = f"{self.number}.1.{len(self.text)}"
        return [("token", at, self.number, self.text[seen:], self.pieces)]

    def ending(self) -> Told:
        """What ends it."""
        at = f"{self.number}.1.end"
        if self.finish_reason == "error":
            return ("error", at, self.number, "upstream_error")
        return ("complete", at, self.number, self.finish_reason, self.pieces)

    def messages(self) -> list[Told]:
        """What the history shows of it."""
        asked = ("user", self.number, self.question, None)
        replied = ("assistant", self.number, self.text, self.finish_reason)
        return [asked, replied] if self.over else [asked]


@dataclass
class Session:
    """A list of turns, of which only the last can be open."""

    turns: list[Turn] = field(default_factory=list)
    deleted: bool = False

    @property
    def open_turn(self) -> Turn | None:
        """The turn that is not over."""
        return self.turns[-1] if self.turns and not self.turns[-1].over else None

    @property
    def active(self) -> list[Turn]:
        """The turns that no other has replaced."""
        return [turn for turn in self.turns if turn.replaced_by is None]

    @property
    def end(self) -> Place:
        """How far the log has come."""
        return self.turns[-1].place if self.turns else BEGINNING

    # What is done to it

    def ask(
        self, request: Request, request_id: str | None, *, streamed: bool, admitted: bool
    ) -> tuple[Turn, bool]:
        """Ask; return the turn and whether it was there already, or raise `Refused`."""
        if self.deleted:
            raise Refused("session_not_found")
        for turn in self.turns:
            if request_id is not None and turn.request_id == request_id:
                if turn.request != request:
                    raise Refused("request_id_conflict")
                return turn, True
        if self.open_turn is not None:
            raise Refused("turn_in_progress")
        return self._begin(request, request_id, streamed, admitted), False

    def cancel(self, number: int | None) -> Turn:
        """Stop the open turn, or raise `Refused`."""
        if self.deleted:
            raise Refused("session_not_found")
        turn = self.open_turn
        if turn is None or number not in (None, turn.number):
            raise Refused("nothing_to_cancel")
        turn.status, turn.finish_reason = "cancelled", "cancelled"
        return turn

    def say(self, text: str) -> None:
        """Let the reply grow by a piece."""
        turn = self.open_turn
        assert turn is not None
        turn.text += text
        turn.pieces += 1

    def complete(self) -> None:
        """End the reply well."""
        turn = self.open_turn
        assert turn is not None
        count = turn.pieces if turn.streamed else USAGE["completion_tokens"]
        cut = count >= (turn.request.max_new_tokens or 512)
        turn.status, turn.finish_reason = "complete", "length" if cut else "stop"

    def fail(self) -> None:
        """End the reply badly."""
        turn = self.open_turn
        assert turn is not None
        turn.status, turn.finish_reason = "failed", "error"

    def _begin(
        self, request: Request, request_id: str | None, streamed: bool, admitted: bool
    ) -> Turn:
        replaces, question = request.replaces, request.message
        if replaces is not None:
            target = self._target(replaces)
            replaces = target.number
            question = target.question if question is None else question
        number = len(self.turns) + 1
        for turn in self.active:
            if replaces is not None and turn.number >= replaces:
                turn.replaced_by = number
        status = "running" if admitted else "queued"
        assert question is not None
        self.turns.append(Turn(number, request, request_id, question, replaces, streamed, status))
        return self.turns[-1]

    def _target(self, number: int) -> Turn:
        for turn in self.active[::-1]:
            if number in (0, turn.number):
                return turn
        raise Refused("turn_not_found")

    # What is told of it

    def after(self, place: Place) -> list[Told]:
        """The log behind a place: a client that is told this has seen all."""
        told: list[Told] = []
        for turn in self.turns:
            if place >= (turn.number, END):
                continue
            within = place[0] == turn.number
            told += [] if within else [turn.start()]
            told += turn.tokens(place[1] if within else 0)
            told += [turn.ending()] if turn.over else []
        return told

    def honours(self, place: Place) -> bool:
        """Whether a client may go on from there."""
        number, offset = place
        if number == 0:
            return place == BEGINNING
        if number > len(self.turns):
            return False
        turn = self.turns[number - 1]
        return offset == END or offset <= len(turn.text) if turn.over else offset != END

    def joined(self) -> Place:
        """Where a client begins that names no place: at the end, before an open turn."""
        ended = [turn.number for turn in self.turns if turn.over]
        return (ended[-1], END) if ended else BEGINNING

    def history(self, limit: int | None = None, *, replaced: bool = False) -> list[Told]:
        """The newest messages, oldest first."""
        shown = self.turns if replaced else self.active
        return [message for turn in shown for message in turn.messages()][-(limit or 100) :]

    def prompt(self) -> list[tuple[str, str]]:
        """What the model is sent for the open turn, but for the system prompt."""
        asked = self.turns[-1]
        messages = [("user", asked.question)]
        room = MAX_CONTEXT_CHARS - len(asked.question)
        usable = [turn for turn in self.active if turn.over and turn.text.strip()]
        for turn in usable[: -MAX_EXCHANGES - 1 : -1]:
            room -= len(turn.question) + len(turn.text)
            if room < 0:
                break
            messages += [("assistant", turn.text), ("user", turn.question)]
        return messages[::-1]

    def rows(self) -> list[Told]:
        """What is stored of its turns; an open one is not told by its exact status."""
        return [
            (
                turn.number,
                turn.status if turn.over else "open",
                turn.request_id,
                turn.replaces,
                turn.replaced_by,
                turn.finish_reason,
                turn.question,
                turn.text if turn.over else None,
            )
            for turn in self.turns
        ]
