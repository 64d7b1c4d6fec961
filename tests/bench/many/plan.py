"""What is measured, in which order: cases with whole gateways, then what each part costs alone."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tests.bench.many.carried import carried, carry, watch, watched
from tests.bench.many.cases import CASES, COUNTED, KEPT, QUICK, Case
from tests.bench.many.leasing import lease, leased
from tests.bench.many.measure import count, keep, measure
from tests.bench.many.saturation import Flood, flooded
from tests.bench.many.site import Servers
from tests.bench.many.voices import Work
from tests.bench.measure import Record

WATCHED = 10_000


@dataclass(frozen=True)
class Step:
    """One measurement, by the name that its records have; `part` is which table it belongs to."""

    part: str
    name: str
    run: Callable[[Servers, int], Record]
    once: bool = False


def _case(case: Case) -> Step:
    return Step(case.load.kind, case.name, partial(measure, case=case))


def _carried(sessions: int, listeners: int, tokens: int = 200) -> Step:
    work = Work(sessions, tokens)
    name = carried(work, listeners)
    return Step("carried", name, partial(carry, work=work, listeners=listeners))


def _flood(flood: Flood) -> Step:
    return Step("flood", flood.name, partial(flooded, flood=flood))


def _leased(open_turns: int) -> Step:
    return Step("leased", leased(open_turns), partial(lease, open_turns=open_turns))


FLOODS = (
    Flood(depth=1, tokens=100),
    Flood(depth=8),
    Flood(),
    Flood(far=2),
    Flood(echo=False),
    Flood(far=0),
    Flood(far=0, merged=10, sessions=400),
)

FULL = (
    *map(_case, CASES),
    _carried(200, 0),
    *(_carried(sessions, 1) for sessions in (50, 100, 200, 400)),
    *map(_flood, FLOODS),
    Step("watched", watched(WATCHED), partial(watch, sessions=WATCHED)),
    _leased(1_000),
    _leased(10_000),
    Step("kept", KEPT.name, partial(keep, load=KEPT), once=True),
    Step("counted", COUNTED.name, partial(count, load=COUNTED), once=True),
)

SMALL = (
    *map(_case, QUICK),
    _carried(20, 1, tokens=25),
    _flood(Flood(sessions=8, tokens=50)),
    _leased(100),
)
"""A few seconds of everything."""
