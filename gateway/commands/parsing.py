"""What several commands take as arguments."""

import argparse
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]
    """What a command adds itself to; argparse has no public name for it."""
else:
    Commands = object

MAX_PORT = 65_535


def port(text: str) -> int:
    """Read a TCP port; 0 takes a free one."""
    if text.isascii() and text.isdecimal() and int(text) <= MAX_PORT:
        return int(text)
    raise argparse.ArgumentTypeError(f"should be from 0 to {MAX_PORT}, given {text!r}")
