"""What one call is going to hear, decided before the first byte is sent."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from itertools import cycle, islice

from llm.simulator import wire
from llm.simulator.faults import Faults
from llm.simulator.request import ChatRequest, Message, fatal, impossible
from llm.simulator.script import Script, pieces_of

_SEPARATORS = ("\u2028", "\u2029", "\u0085")
_TOKENS_PER_MESSAGE = 4


class Ending(Enum):
    """What follows the last piece; of two that are due at once, the first named here counts."""

    STALL = auto()
    CUT = auto()
    END = auto()
    ERROR = auto()
    COMPLETE = auto()


@dataclass(frozen=True)
class Plan:
    """The pieces of a reply, when they are due, and how it ends."""

    pieces: tuple[str, ...]
    ending: Ending
    faults: Faults
    by_itself: bool = False
    """The reply comes to its own end, not to the limit of pieces or to a fault."""
    starts: bool = True
    """A stream begins with a `start` event."""
    freezes: bool = False
    """The whole server falls mute after the `start` event."""

    def duration_ms(self) -> float:
        """From the start to the last piece."""
        return self.faults.first_token_ms + self.faults.interval_ms * max(len(self.pieces) - 1, 0)

    def whole(self, messages: Sequence[Message]) -> bytes:
        """The reply to these messages as `/chat` gives it: stripped, with a made-up usage."""
        response = "".join(self.pieces).strip()
        return wire.json_body({"response": response, "usage": self.usage(messages)})

    def usage(self, messages: Sequence[Message]) -> dict[str, int]:
        """Make up what the reply to these messages has cost."""
        prompt = sum(_TOKENS_PER_MESSAGE + len(pieces_of(each.content)) for each in messages)
        # A model that stops by itself has generated one token more: the end.
        completion = len(self.pieces) + self.by_itself
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }

    def writes(self) -> Iterator[tuple[float, bytes]]:
        """What midm's stream writes after its `start` event, and how many seconds after it."""
        return self.timed(wire.chunk_events(self.pieces), self._last_events())

    def timed(
        self, chunks: Iterable[bytes], last: Iterable[bytes]
    ) -> Iterator[tuple[float, bytes]]:
        """When each of these events is due, junk and cuts among them if they are asked for."""
        faults = self.faults
        for index, event in enumerate(chunks):
            due_s = (faults.first_token_ms + index * faults.interval_ms) / 1000
            if faults.junk:
                yield due_s, wire.JUNK[index % len(wire.JUNK)]
            if faults.split_utf8:
                for part in wire.cut_inside_characters(event):
                    yield due_s, part
            else:
                yield due_s, event
        for event in last:
            yield self.duration_ms() / 1000, event

    def _last_events(self) -> tuple[bytes, ...]:
        match self.ending:
            case Ending.COMPLETE:
                return wire.complete_event(self.pieces), wire.DONE
            case Ending.ERROR:
                return (wire.error_event(self.faults.message),)
            case _:
                return ()


def plan_call(chat: ChatRequest, *, script: Script, faults: Faults) -> Plan:
    """The plan for a stream: what midm does with this request, and what was asked for on top."""
    instantly = replace(faults, first_token_ms=0.0)
    complaint = impossible(chat)
    if complaint is not None:
        return Plan((), Ending.ERROR, replace(instantly, message=complaint), starts=False)
    if fatal(chat) is not None:
        return Plan((), Ending.ERROR, replace(instantly, message=""), freezes=True)
    return plan_reply(script(chat.messages), limit=chat.token_limit(), faults=faults)


def plan_reply(said: Sequence[str], *, limit: int, faults: Faults) -> Plan:
    """The plan for a reply that would be said in these pieces, were it not for limit and faults."""
    pieces = tuple(said[:limit]) if faults.pieces is None else stretched(said, faults.pieces)
    if faults.u2028:
        pieces = tuple(map(_with_separator, pieces, cycle(_SEPARATORS)))
    ending, at = _ending(faults)
    by_itself = ending is Ending.COMPLETE and (faults.pieces is not None or len(said) < limit)
    return Plan(pieces[:at], ending, faults, by_itself=by_itself)


def stretched(said: Sequence[str], count: int) -> tuple[str, ...]:
    """Exactly `count` of the pieces, said again from the beginning where there are too few.

    Nothing cannot be stretched: it stays nothing.
    """
    if len(said) >= count or not said:
        return tuple(said[:count])
    again = (*said[:-1], said[-1].rstrip() + " ")
    return tuple(islice(cycle(again), count))


def _ending(faults: Faults) -> tuple[Ending, int | None]:
    wanted = (
        (faults.stall_at, Ending.STALL),
        (faults.cut_at, Ending.CUT),
        (faults.end_at, Ending.END),
        (faults.error_at, Ending.ERROR),
    )
    due = [(at, ending) for at, ending in wanted if at is not None]
    if not due:
        return Ending.COMPLETE, None
    at, ending = min(due, key=lambda each: each[0])
    return ending, at


def _with_separator(piece: str, separator: str) -> str:
    word = piece.rstrip(" \n")
    return word + separator + piece[len(word) :]
