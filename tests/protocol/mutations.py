"""Frames and bodies that no program of ours sends: valid ones, spoilt as the dice have it.

The same seed makes the same text, so a seed is all that a failure has to be told by.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from random import Random

Spoiling = Callable[[str, Random], str]

FRAMES: tuple[Mapping[str, object], ...] = (
    {"type": "chat", "message": "안녕하세요"},
    {
        "type": "chat",
        "message": "hi 😀",
        "request_id": "r1",
        "max_new_tokens": 9,
        "temperature": 0.5,
        "do_sample": False,
        "replaces": 3,
    },
    {"type": "regenerate", "turn": 3, "request_id": "r1", "temperature": 1.5},
    {"type": "cancel", "turn": 3, "request_id": "r1"},
    {"type": "history", "limit": 20, "before": "m1", "request_id": "r1"},
    {"type": "auth", "token": "secret"},
    {"type": "ping", "request_id": "r1"},
    {"type": "help"},
)
TYPED = ("안녕", "/cancel 3", "/regenerate 3", "/history 20", "/ping r1", "/help", "//text")
STRAY = (
    *("\0", "\x1b[31m", "\x7f", "\x85", "\x9b", "\n", "\r", "\t", " ", "\xa0", "\u2028", "\u2029"),
    *("\ufeff", "\u202e", "\u200d", "\ufffe", "\ud800", "\udfff", "\ud83d\ude00", "😀", "가"),
    *('"', "\\", "/", "{", "}", "[", "]", ",", ":", "-", "0", "１", "e", "\\u0000", "\\ud800"),
)
ODD_NUMBERS = (
    *("-0", "0", "-1", "1", "1.0", "1.5", "1e0", "2", "3", "1e-999", "1e308", "-1e308", "1e999"),
    *("NaN", "Infinity", "-Infinity", "01", "+1", ".5", "1.", "0x10", "1_000", "9" * 16),
    *(str(2**31), str(2**53 + 1), str(2**63), str(-(2**63) - 1), str(2**64), str(10**400)),
    *("1" + "0" * 4_299, "9" * 4_301, "0." + "1" * 5_000, "1e" + "9" * 40, "1" * 400 + ".5"),
)
ODD_STRINGS = (
    *('""', '" "', '"\\u0000"', '"\\ud800"', '"\\udc00\\ud800"', '"\\ud83d\\ude00"', '"\\u2028"'),
    *('"\u2028"', '"\u202e"', '"\\u001b[2J"', '"\x7f"', '"\x9b31m"', '"\ud800"', '"\ufeff"'),
    *('"a\nb"', '"\\x"', '"\\u12"', "'a'", '"true"', '"yes"', '"1"', '"１"', '"1.0"', '"1e3"'),
    *('"null"', '"NaN"', '"inf"', '"-0"', '" 1 "', '"1_0"', '"chat"', '"Chat"', '"__class__"'),
    *('"' + "x" * size + '"' for size in (63, 64, 65, 1_000)),
    '"' + "\\ud800" * 64 + '"',
    '"' + "9" * 5_000 + '"',
)
ODD_VALUES = ("null", "true", "false", "[]", "{}", "[{}]", '{"a":1}', "", "undefined", "nan")
DEPTHS = (2, 63, 64, 65, 255, 256, 1_000)
LENGTHS = (31_999, 32_000, 32_001, 100_000)


def more_is_asked_for() -> bool:
    """Whether somebody said how many examples to try."""
    return "FUZZ_EXAMPLES" in os.environ


def examples(default: int) -> int:
    """Say how many examples a test that is left to chance tries: `FUZZ_EXAMPLES`, or its own."""
    return int(os.environ.get("FUZZ_EXAMPLES", default))


def any_frame(dice: Random) -> str:
    """Make up a text frame."""
    chance = dice.random()
    if chance < 0.75:
        return spoilt_json(dice.choice(FRAMES), dice)
    if chance < 0.95:
        return _spoilt_text(dice.choice(TYPED), dice)
    return arbitrary_text(dice)


def any_body(fields: Mapping[str, object], dice: Random) -> bytes:
    """Make up a body: one of these fields, spoilt, or nothing of the kind."""
    text = spoilt_json(fields, dice) if dice.random() < 0.9 else arbitrary_text(dice)
    return spoilt_bytes(text.encode(errors="surrogatepass"), dice)


def spoilt_json(fields: Mapping[str, object], dice: Random) -> str:
    """Write fields as JSON, with some of them odd, dropped, doubled or strange, or text spoilt."""
    pairs = [(json.dumps(name), json.dumps(value)) for name, value in fields.items()]
    for _ in range(dice.choice((0, 1, 1, 2, 4))):
        _spoil_pairs(pairs, dice)
    text = "{" + ",".join(f"{name}:{value}" for name, value in pairs) + "}"
    return _spoilt_text(text, dice) if dice.random() < 0.3 else text


def arbitrary_text(dice: Random) -> str:
    """Make up text of any characters there are, surrogates too."""
    return "".join(_any_character(dice) for _ in range(dice.randrange(80)))


def arbitrary_json(dice: Random, depth: int = 3) -> str:
    """Make up a JSON value, as far as its odd parts are JSON."""
    kind = dice.random()
    if depth and kind < 0.2:
        inner = [arbitrary_json(dice, depth - 1) for _ in range(dice.randrange(4))]
        return "[" + ",".join(inner) + "]"
    if depth and kind < 0.4:
        names = [dice.choice(ODD_STRINGS) for _ in range(dice.randrange(4))]
        pairs = (f"{name}:{arbitrary_json(dice, depth - 1)}" for name in names)
        return "{" + ",".join(pairs) + "}"
    return _odd_value(dice)


def _odd_value(dice: Random) -> str:
    chance = dice.random()
    if chance < 0.01:
        return nested(dice.choice(DEPTHS), dice)
    if chance < 0.02:
        return json.dumps(dice.choice(("x", "가", "\ud800")) * dice.choice(LENGTHS))
    return dice.choice(dice.choice((ODD_NUMBERS, ODD_STRINGS, ODD_VALUES)))


def nested(levels: int, dice: Random) -> str:
    """Write a value that lies in so many others."""
    opened, closed = dice.choice((("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")))
    return opened * levels + "1" + closed * levels


def _spoil_pairs(pairs: list[tuple[str, str]], dice: Random) -> None:
    names: Sequence[str] = [name for name, _ in pairs] or ['"type"']
    at = dice.randrange(len(pairs) + 1)
    match dice.randrange(5):
        case 0 if pairs:
            pairs.pop(at - 1)
        case 1 if pairs:
            pairs.insert(at, dice.choice(pairs))
        case 2:
            pairs.insert(at, (dice.choice(ODD_STRINGS), arbitrary_json(dice)))
        case _:
            pairs.insert(at, (dice.choice(names), arbitrary_json(dice)))


def _spoilt_text(text: str, dice: Random) -> str:
    for _ in range(dice.choice((0, 1, 1, 2, 5))):
        text = dice.choice(_SPOILINGS)(text, dice)
    return text


def _cut(text: str, dice: Random) -> str:
    return text[: dice.randrange(len(text) + 1)]


def _without_some(text: str, dice: Random) -> str:
    at = dice.randrange(len(text) + 1)
    return text[:at] + text[at + dice.randrange(1, 6) :]


def _with_some_twice(text: str, dice: Random) -> str:
    at = dice.randrange(len(text) + 1)
    return text[:at] + text[at : at + dice.randrange(1, 9)] + text[at:]


def _with_a_stray(text: str, dice: Random) -> str:
    at = dice.choice((0, len(text), dice.randrange(len(text) + 1)))
    return text[:at] + dice.choice(STRAY) + text[at:]


def _with_the_last_case(text: str, dice: Random) -> str:
    return text.swapcase()


_SPOILINGS: tuple[Spoiling, ...] = (
    _cut,
    _without_some,
    _with_some_twice,
    _with_a_stray,
    _with_a_stray,
    _with_the_last_case,
)


def spoilt_bytes(data: bytes, dice: Random) -> bytes:
    if dice.random() < 0.9:
        return data
    at = dice.randrange(len(data) + 1)
    return data[:at] + dice.randbytes(dice.randrange(1, 5)) + data[at + dice.randrange(3) :]


def _any_character(dice: Random) -> str:
    if dice.random() < 0.3:
        return dice.choice(STRAY)
    return chr(dice.randrange(dice.choice((0x80, 0x800, 0x1_0000, 0x11_0000))))
