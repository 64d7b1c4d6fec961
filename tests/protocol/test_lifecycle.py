import re
from itertools import product
from typing import get_args

import pytest
from sqlalchemy import CheckConstraint

from protocol.lifecycle import FIRST, TRANSITIONS, Happening, IllegalTransition, after
from protocol.server_frames import TurnStatus
from storage.tables import OPEN, turns

STATUSES: tuple[TurnStatus, ...] = get_args(TurnStatus)
HAPPENINGS: tuple[Happening, ...] = get_args(Happening)
OVER = ("complete", "cancelled", "failed", "interrupted")
BECOMES: dict[Happening, dict[TurnStatus, TurnStatus]] = {
    "admit": {"queued": "running"},
    "finish": {"running": "complete"},
    "cancel": {"queued": "cancelled", "running": "cancelled"},
    "fail": {"queued": "failed", "running": "failed"},
    "interrupt": {"queued": "interrupted", "running": "interrupted"},
    "take_up": {"queued": "queued", "running": "queued"},
}
"""The table again, the other way round: what is mistyped in one is not in both."""


@pytest.mark.parametrize(("status", "happening"), list(product(STATUSES, HAPPENINGS)))
def test_whatever_befalls_a_turn_it_becomes_what_the_table_says_or_stays_as_it_is(
    status: TurnStatus, happening: Happening
) -> None:
    if status in BECOMES[happening]:
        assert after(status, happening) == BECOMES[happening][status]
    else:
        with pytest.raises(IllegalTransition, match=f"{status} cannot {happening}") as caught:
            after(status, happening)
        assert (caught.value.status, caught.value.happening) == (status, happening)


def test_the_table_holds_nothing_else() -> None:
    assert set(TRANSITIONS) <= set(product(STATUSES, HAPPENINGS))


def test_what_is_over_stays_as_it_is() -> None:
    assert set(STATUSES) - {status for status, _ in TRANSITIONS} == set(OVER)


def test_every_status_can_be_reached_from_the_first() -> None:
    reached: set[TurnStatus] = set()
    found: set[TurnStatus] = {FIRST}
    while found - reached:
        reached |= found
        found = {then for (status, _), then in TRANSITIONS.items() if status in reached}
    assert reached == set(STATUSES)


@pytest.mark.parametrize("happening", ["cancel", "fail", "interrupt", "take_up"])
@pytest.mark.parametrize("status", ["queued", "running"])
def test_an_open_turn_can_always_be_ended_or_taken_up(
    status: TurnStatus, happening: Happening
) -> None:
    assert after(status, happening)


def test_only_a_turn_that_runs_is_complete() -> None:
    assert [status for (status, _), then in TRANSITIONS.items() if then == "complete"] == [
        "running"
    ]


def test_no_way_leads_back_but_for_the_next_attempt() -> None:
    later = ("queued", "running", *OVER)
    for (status, happening), then in TRANSITIONS.items():
        assert happening == "take_up" or later.index(status) < later.index(then)


def test_the_database_takes_the_same_statuses_and_calls_the_same_ones_open() -> None:
    [allowed] = [rule for rule in turns.c.status.constraints if isinstance(rule, CheckConstraint)]
    assert tuple(re.findall(r"'(\w+)'", str(allowed.sqltext))) == STATUSES
    assert set(re.findall(r"'(\w+)'", OPEN.text)) == {status for status, _ in TRANSITIONS}
