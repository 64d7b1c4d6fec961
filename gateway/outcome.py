"""How a turn begins and ends, as events. Pure."""

from dataclasses import dataclass, field, replace

from llm.client import Usage
from protocol.cursor import END, Cursor
from protocol.errors import CATALOGUE, ErrorCode, Refusal
from protocol.lifecycle import Happening, after
from protocol.server_frames import Complete, CompleteReason, Error, FinishReason, Start, Timing
from storage.times import utc_now
from storage.turns import StoredTurn, TurnEnd

NO_TIMING = Timing(queue_ms=None, first_token_ms=None, duration_ms=None)


@dataclass(frozen=True)
class Outcome:
    """What became of a reply: its text, and why there is no more of it.

    With `error` it failed, whatever `reason` says.
    """

    text: str
    total_tokens: int
    reason: CompleteReason = "cancelled"
    usage: Usage | None = None
    error: Refusal | None = None
    timing: Timing = field(default=NO_TIMING)

    def cancelled(self) -> "Outcome":
        """Make this the outcome of a turn that somebody stopped."""
        return replace(self, reason="cancelled", error=None, usage=None)

    @property
    def happening(self) -> Happening:
        """What has befallen the turn."""
        if self.error is not None:
            return "interrupt" if self.error.code == ErrorCode.INTERRUPTED else "fail"
        return "cancel" if self.reason == "cancelled" else "finish"

    @property
    def finish_reason(self) -> FinishReason:
        """Why the reply ended, as the history tells it."""
        if self.error is None:
            return self.reason
        return "interrupted" if self.happening == "interrupt" else "error"

    @property
    def token_usage(self) -> dict[str, int] | None:
        """Tokens as the model server counted them."""
        return None if self.usage is None else dict(vars(self.usage))


def start_event(turn: StoredTurn) -> Start:
    """Tell that a turn, or another attempt of it, begins."""
    return Start(
        id=str(Cursor(turn.turn, turn.attempt, 0)),
        turn=turn.turn,
        attempt=turn.attempt,
        message_id=turn.reply_message_id,
        user_message=turn.user_message,
        request_id=turn.request_id,
        replaces=turn.replaces,
    )


def turn_end(turn: StoredTurn, outcome: Outcome) -> TurnEnd:
    """Say how a turn ended: what is stored, and the terminal event that tells of it."""
    ended_at = utc_now()
    return TurnEnd(
        status=after(turn.status, outcome.happening),
        finish_reason=outcome.finish_reason,
        text=outcome.text,
        total_tokens=outcome.total_tokens,
        usage=outcome.token_usage,
        ended_at=ended_at,
        event=_terminal_event(turn, outcome, ended_at).frame(),
    )


def _terminal_event(turn: StoredTurn, outcome: Outcome, ended_at: str) -> Complete | Error:
    end = str(Cursor(turn.turn, turn.attempt, END))
    if outcome.error is not None:
        return Error(
            id=end,
            turn=turn.turn,
            message_id=turn.reply_message_id,
            code=outcome.error.code,
            message=outcome.error.message,
            retryable=CATALOGUE[outcome.error.code].retryable,
            retry_after_ms=outcome.error.retry_after_ms,
        )
    return Complete(
        id=end,
        turn=turn.turn,
        message_id=turn.reply_message_id,
        finish_reason=outcome.reason,
        total_tokens=outcome.total_tokens,
        token_usage=outcome.token_usage,
        created_at=ended_at,
        timing=outcome.timing,
    )
