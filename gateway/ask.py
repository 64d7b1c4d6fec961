"""A request for a turn, whichever transport brought it."""

import hashlib
import json
from dataclasses import dataclass
from typing import TypeVar

from gateway.caller import Caller
from llm.client import Generation
from protocol.chat import ChatFields, GenerationFields, RegenerateFields
from storage.claims import Claim

GREEDY_BELOW = 0.01
"""A temperature below this means "always the likeliest": midm freezes on 0 with sampling."""

LAST = 0
"""As `replaces`: the session's last turn."""

T = TypeVar("T")


@dataclass(frozen=True)
class Ask:
    """What is asked; `message` None asks the question of turn `replaces` again.

    `account` is what the caller's share is counted on; None is not counted.
    """

    claim: Claim
    account: str | None
    message: str | None
    replaces: int | None
    request_id: str | None
    given: GenerationFields
    streamed: bool = True

    @classmethod
    def chat(
        cls, caller: Caller, session_id: str, chat: ChatFields, *, streamed: bool = True
    ) -> "Ask":
        """Ask a question, in place of another if it is an edit."""
        return cls(
            claim=caller.claim(session_id),
            account=caller.account,
            message=chat.message,
            replaces=chat.replaces,
            request_id=chat.request_id,
            given=chat,
            streamed=streamed,
        )

    @classmethod
    def again(cls, caller: Caller, session_id: str, regenerate: RegenerateFields) -> "Ask":
        """Ask the question of a turn again."""
        return cls(
            claim=caller.claim(session_id),
            account=caller.account,
            message=None,
            replaces=regenerate.turn or LAST,
            request_id=regenerate.request_id,
            given=regenerate,
        )

    @property
    def fingerprint(self) -> str:
        """Tell this request from another with the same `request_id`, on any transport."""
        given = self.given
        content = [self.message, self.replaces]
        generation = [given.max_new_tokens, given.temperature, given.do_sample]
        return hashlib.sha256(json.dumps([*content, *generation]).encode()).hexdigest()

    def generation(self, defaults: Generation) -> Generation:
        """Say how the model is to answer; what was not asked for is as in `defaults`."""
        temperature = _first(self.given.temperature, defaults.temperature)
        do_sample = _first(self.given.do_sample, defaults.do_sample)
        sensible = temperature >= GREEDY_BELOW
        return Generation(
            max_new_tokens=_first(self.given.max_new_tokens, defaults.max_new_tokens),
            temperature=temperature if sensible else 1.0,
            do_sample=do_sample and sensible,
        )


def _first(given: T | None, default: T) -> T:
    return default if given is None else given
