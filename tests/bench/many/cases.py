"""What is measured with whole gateways: each case, as data."""

from dataclasses import dataclass, replace

from tests.bench.loads import Load


@dataclass(frozen=True, kw_only=True)
class Case:
    """A load on some nodes; `nodes` 0 is one gateway that is alone, on a file of its own.

    With two nodes every client is on the first, and its further tabs on the second. `beside` is the
    case that its figures are divided by, round by round.
    """

    name: str
    load: Load
    nodes: int
    beside: str | None = None


def _streams(count: int, *, tabs: int = 0, tokens: int = 256) -> Load:
    name = f"streams-{count}" + (f"-tabs-{tabs}" if tabs else "")
    return Load(name=name, says=f"{count} streams", clients=count, tabs=tabs, tokens=tokens)


def _tokens(count: int) -> tuple[Case, ...]:
    alone, with_tabs = _streams(count), _streams(count, tabs=1)
    first = f"{count} streams, embedded"
    return (
        Case(name=first, load=alone, nodes=0),
        Case(name=f"{count} streams, one node of many", load=alone, nodes=1, beside=first),
        Case(
            name=f"{count} streams and a second tab, embedded",
            load=with_tabs,
            nodes=0,
            beside=first,
        ),
        Case(
            name=f"{count} streams and a second tab on another node",
            load=with_tabs,
            nodes=2,
            beside=first,
        ),
    )


_ONE_BY_ONE = Load(name="first-token", says="", kind="turn", turns=60, tokens=1, interval_us=1_000)
_SHORT = Load(
    name="turns-1", says="", kind="turn", clients=50, turns=20, tokens=1, interval_us=1_000
)
_FAST = Load(name="turns-5", says="", kind="turn", clients=100, turns=20, tokens=5, interval_us=0)


def _both(name: str, load: Load) -> tuple[Case, ...]:
    first = f"{name}, embedded"
    return (
        Case(name=first, load=load, nodes=0),
        Case(name=f"{name}, one node of many", load=load, nodes=1, beside=first),
    )


def _idle(count: int, hold_s: float) -> Load:
    return Load(name=f"idle-{count}", says="", kind="idle", clients=count, turns=0, hold_s=hold_s)


def _joined(count: int, hold_s: float) -> tuple[Case, ...]:
    load = replace(_idle(count, hold_s), name=f"joined-{count}", tabs=1)
    first = f"{count} sessions and a second tab, idle, embedded"
    there = f"{count} sessions and a second tab on another node, idle"
    return (
        Case(name=first, load=load, nodes=0),
        Case(name=there, load=load, nodes=2, beside=first),
    )


CASES = (
    *_tokens(50),
    *_tokens(150),
    *_both("one client, turns of one token", _ONE_BY_ONE),
    *_both("50 clients, turns of one token", _SHORT),
    *_both("100 clients, turns of 5 tokens", _FAST),
    *_both("3000 idle connections", _idle(3_000, 12)),
    *_joined(1_500, 6),
)

QUICK = (
    Case(name="embedded", load=_streams(8, tabs=1, tokens=60), nodes=0),
    Case(name="two nodes", load=_streams(8, tabs=1, tokens=60), nodes=2),
)

KEPT = Load(name="turns of 256 tokens", says="", clients=10, turns=50, interval_us=0)
"""Turns that are looked for in the database."""

COUNTED = Load(name="counted", says="", kind="turn", turns=100, tokens=1, interval_us=0)
"""Turns whose statements and commands are counted: one client, so that nothing is shared."""
