"""What a check has found: whether it is well, and if not, what to do."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How it is."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


@dataclass(frozen=True)
class Finding:
    """One line: of what, how it is, and what to do where it is not well."""

    about: str
    state: State
    says: str
    do: str = ""


def ok(about: str, says: str) -> Finding:
    """Say that something is as it should be."""
    return Finding(about, State.OK, says)


def warning(about: str, says: str, do: str) -> Finding:
    """Say that something works, and may be trouble later."""
    return Finding(about, State.WARNING, says, do)


def wrong(about: str, says: str, do: str) -> Finding:
    """Say that something does not work."""
    return Finding(about, State.WRONG, says, do)
