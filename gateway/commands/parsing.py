"""What several commands take as arguments, and how they explain themselves."""

import argparse
from difflib import get_close_matches
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]
    """What a command adds itself to; argparse has no public name for it."""
else:
    Commands = object

MAX_PORT = 65_535


class BadUsage(Exception):
    """A command was called in a way that makes no sense; the text is one line that says why."""


def described(
    commands: Commands, name: str, *, brief: str, description: str, epilog: str = ""
) -> argparse.ArgumentParser:
    """Add a command; its `--help` shows description and epilog as they are, at most 80 wide."""
    return commands.add_parser(
        name,
        help=brief,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def suggestion(word: str, known: list[str]) -> str:
    """Say which command may have been meant; nothing if none is like it."""
    [*close] = get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def port(text: str) -> int:
    """Read a TCP port; 0 takes a free one."""
    if text.isascii() and text.isdecimal() and int(text) <= MAX_PORT:
        return int(text)
    raise argparse.ArgumentTypeError(f"should be from 0 to {MAX_PORT}, given {text!r}")
