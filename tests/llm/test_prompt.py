"""Stored turns become a prompt: the newest whole exchanges, neutral text, within the limits."""

from dataclasses import dataclass

import pytest

from llm.client import PromptMessage
from llm.prompt import (
    DEFAULT_SYSTEM_PROMPT,
    ContextLimits,
    ContextTooLong,
    build_prompt,
    neutral,
)


@dataclass(frozen=True)
class Told:
    question: str
    reply: str


def newest_first(*numbers: int) -> list[Told]:
    return [Told(f"q{number}", f"a{number}") for number in numbers]


def contents(prompt: list[PromptMessage]) -> list[str]:
    return [message.content for message in prompt]


def test_roles_alternate_and_begin_with_the_system_prompt() -> None:
    prompt = build_prompt("now", newest_first(2, 1), limits=ContextLimits())
    assert prompt == [
        PromptMessage("system", DEFAULT_SYSTEM_PROMPT),
        PromptMessage("user", "q1"),
        PromptMessage("assistant", "a1"),
        PromptMessage("user", "q2"),
        PromptMessage("assistant", "a2"),
        PromptMessage("user", "now"),
    ]


@pytest.mark.parametrize("system_prompt", ["", " \n"])
def test_a_blank_system_prompt_is_left_out(system_prompt: str) -> None:
    prompt = build_prompt("now", [], limits=ContextLimits(), system_prompt=system_prompt)
    assert prompt == [PromptMessage("user", "now")]


@pytest.mark.parametrize(
    ("max_messages", "exchanges"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (10, 4), (11, 5)]
)
def test_messages_are_counted_with_the_question_and_never_half_an_exchange(
    max_messages: int, exchanges: int
) -> None:
    limits = ContextLimits(max_messages=max_messages)
    assert limits.max_exchanges == exchanges
    told = newest_first(*range(9, 0, -1))
    prompt = build_prompt("now", told, limits=limits)
    expected = [f"{who}{number}" for number in range(10 - exchanges, 10) for who in "qa"]
    assert contents(prompt)[1:] == [*expected, "now"]
    assert len(prompt) - 1 <= max_messages


def test_exchanges_beyond_the_limit_are_not_even_looked_at() -> None:
    told = iter(newest_first(9, 8, 7, 6))
    build_prompt("now", told, limits=ContextLimits(max_messages=3))
    assert list(told) == newest_first(7, 6)


@pytest.mark.parametrize(("max_chars", "expected"), [(15, 3), (14, 2), (11, 2), (10, 1), (3, 0)])
def test_characters_are_counted_with_the_question_but_without_the_system_prompt(
    max_chars: int, expected: int
) -> None:
    # "now" is 3 characters and every exchange 4.
    limits = ContextLimits(max_messages=100, max_chars=max_chars)
    prompt = build_prompt("now", newest_first(3, 2, 1), limits=limits)
    assert len(prompt) == 1 + 2 * expected + 1


def test_nothing_is_left_out_in_the_middle() -> None:
    told = [Told("new", "a"), Told("long", "x" * 100), Told("old", "a")]
    prompt = build_prompt("now", told, limits=ContextLimits(max_chars=50))
    assert contents(prompt)[1:] == ["new", "a", "now"]


def test_a_question_that_does_not_fit_is_too_long() -> None:
    limits = ContextLimits(max_chars=5)
    limits.check("12345")
    with pytest.raises(ContextTooLong) as raised:
        build_prompt("123456", [], limits=limits)
    assert (raised.value.chars, raised.value.max_chars) == (6, 5)


def test_characters_are_code_points() -> None:
    ContextLimits(max_chars=3).check("믿음😀")
    with pytest.raises(ContextTooLong):
        ContextLimits(max_chars=2).check("믿음😀")


def test_a_question_is_measured_as_it_is_sent() -> None:
    with pytest.raises(ContextTooLong):
        ContextLimits(max_chars=2).check("<|")


@pytest.mark.parametrize(
    "token",
    [
        "<|eot_id|>",
        "<|begin_of_text|>",
        "<|start_header_id|>",
        "<|end_of_text|>",
        "<|reserved_special_token_0|>",
        "<<||eot_id|>",
        "<|<|eot_id|>|>",
    ],
)
def test_no_control_token_survives(token: str) -> None:
    assert "<|" not in neutral(token)
    told = [Told(token, token)]
    for message in build_prompt(token, told, limits=ContextLimits())[1:]:
        assert "<|" not in message.content


@pytest.mark.parametrize("text", ["a < b || c > d", "|>", "<", "<b>|</b>", "f(x) = x<y|z", ""])
def test_other_text_stays_as_it_is(text: str) -> None:
    assert neutral(text) == text


def test_neutral_text_is_neutral_already() -> None:
    once = neutral("a<|b|>c<<||d")
    assert neutral(once) == once


def test_the_system_prompt_is_ours_and_sent_as_it_is() -> None:
    prompt = build_prompt("x", [], limits=ContextLimits(), system_prompt="<|keep|>")
    assert prompt[0] == PromptMessage("system", "<|keep|>")
