"""What arithmetic does not show: what happens in the seconds after a node has died. Simulated."""

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field

_BINS_PER_S = 10


@dataclass(frozen=True)
class Reconnected:
    """How the clients of a dead node came back: per other node, and in seconds."""

    peak_per_s: float
    longest_wait_s: float
    all_back_s: float


def reconnect(
    *, nodes: int, clients: int, accepts_per_s: float, jitter_s: float, seed: int = 1
) -> Reconnected:
    """Let the clients of one dead node connect to others, each after a time of its own.

    A node greets one after the other, at the pace that was measured; who comes meanwhile waits.
    """
    dice = random.Random(seed)
    free_at = [0.0] * (nodes - 1)
    came: Counter[tuple[int, int]] = Counter()
    longest = last = 0.0
    for at in sorted(dice.uniform(0, jitter_s) for _ in range(clients)):
        node = dice.randrange(nodes - 1)
        came[node, int(at * _BINS_PER_S)] += 1
        free_at[node] = max(free_at[node], at) + 1 / accepts_per_s
        longest = max(longest, free_at[node] - at)
        last = max(last, free_at[node])
    return Reconnected(max(came.values()) * _BINS_PER_S, longest, last)


@dataclass(frozen=True, kw_only=True)
class TakeUp:
    """How nodes take up what a dead one left: `page` turns at a time.

    Who took some of a full page looks at the next one at once, everybody else every so often.
    """

    page: int = 100
    look_s: tuple[float, float] = (1.6, 2.0)
    lease_s: float = 6.0
    renewed_s: float = 2.0
    take_s: float = 0.005


def taken_up(*, nodes: int, turns: int, how: TakeUp | None = None, seed: int = 1) -> float:
    """Say after how many seconds the last turn of a dead node goes on elsewhere.

    All nodes list the same turns, and each goes through them in an order of its own; who comes
    second to one goes on to the next. Who got any of a full page looks again at once.
    """
    how = how or TakeUp()
    dice = random.Random(seed)
    lapsed_at = how.lease_s - dice.uniform(0, how.renewed_s)
    left = set(range(turns))
    done = 0.0
    nodes_left = [
        _Node(lapsed_at + dice.uniform(0, how.look_s[1]), number) for number in range(nodes - 1)
    ]
    while left:
        node = heapq.heappop(nodes_left)
        if node.page:
            turn = node.page.pop()
            node.at += how.take_s
            if turn in left:
                left.discard(turn)
                done, node.got = max(done, node.at), True
            if not (node.page or (node.got and node.full)):
                node.at += dice.uniform(*how.look_s)
        else:
            node.page = sorted(left)[: how.page]
            node.full, node.got = len(node.page) == how.page, False
            dice.shuffle(node.page)
        heapq.heappush(nodes_left, node)
    return done


@dataclass(order=True)
class _Node:
    """What a node does next, and when."""

    at: float
    number: int
    page: list[int] = field(default_factory=list, compare=False)
    full: bool = field(default=False, compare=False)
    got: bool = field(default=False, compare=False)
