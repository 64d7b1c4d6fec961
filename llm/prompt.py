"""Turns stored exchanges and a question into the messages a model is sent. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from llm.client import PromptMessage

DEFAULT_SYSTEM_PROMPT = "Mi:dm(믿:음)은 KT에서 개발한 AI 기반 어시스턴트이다."
"""The original backend's."""


class Exchange(Protocol):
    """A question and its reply, both stored."""

    @property
    def question(self) -> str: ...
    @property
    def reply(self) -> str: ...


class ContextTooLong(Exception):
    """The question alone is more than the model is to be sent."""

    def __init__(self, *, chars: int, max_chars: int) -> None:
        self.chars = chars
        self.max_chars = max_chars
        super().__init__(f"{chars} characters, at most {max_chars} fit the context")


@dataclass(frozen=True)
class ContextLimits:
    """What a prompt may hold beside the system prompt.

    `max_messages` counts stored messages, the question included; `max_chars` counts code points.
    """

    max_messages: int = 10
    max_chars: int = 32_000

    @property
    def max_exchanges(self) -> int:
        """How many exchanges fit beside the question: never half of one."""
        return (self.max_messages - 1) // 2

    def check(self, question: str) -> None:
        """Raise `ContextTooLong` if a question cannot be sent, whatever else is left out."""
        if (chars := len(neutral(question))) > self.max_chars:
            raise ContextTooLong(chars=chars, max_chars=self.max_chars)


def build_prompt(
    question: str,
    exchanges: Iterable[Exchange],
    *,
    limits: ContextLimits,
    system_prompt: str = DEFAULT_SYSTEM_PROMPT,
) -> list[PromptMessage]:
    """Put the question behind the newest exchanges that fit, none of them left out between.

    `exchanges` come newest first. Raises `ContextTooLong` if not even the question fits.
    """
    limits.check(question)
    messages = [PromptMessage("user", neutral(question))]
    room = limits.max_chars - len(messages[0].content)
    for index, exchange in enumerate(exchanges):
        asked, replied = neutral(exchange.question), neutral(exchange.reply)
        room -= len(asked) + len(replied)
        if room < 0 or index == limits.max_exchanges:
            break
        messages += [PromptMessage("assistant", replied), PromptMessage("user", asked)]
    if system_prompt.strip():
        messages.append(PromptMessage("system", system_prompt))
    return messages[::-1]


def neutral(text: str) -> str:
    """Keep text from being read as the model's control tokens, such as `<|eot_id|>`.

    Every special token of Llama-like tokenizers begins with `<|`; parted by a space it is text.
    """
    return text.replace("<|", "< |")
