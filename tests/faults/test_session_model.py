"""Whatever clients, the model server and the network do to a session, it is what it should be.

Random sequences of steps are played on a gateway and on `tests.faults.session`, which says in
plain Python what a session is; after every step every client has been told exactly what that
says. `SESSION_EXAMPLES` is how many sequences are played.
"""

import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.cursor import END
from tests.faults.play import Play
from tests.faults.session import Request
from tests.faults.stage import stage
from tests.faults.steps import (
    Ask,
    Busy,
    Cancel,
    Delete,
    End,
    History,
    Leave,
    Nothing,
    Open,
    Say,
    Step,
    Via,
)

EXAMPLES = int(os.environ.get("SESSION_EXAMPLES", "60"))

WHO = st.integers(0, 2)
VIA: st.SearchStrategy[Via] = st.sampled_from(["tab", "rest", "sse"])
REQUEST_IDS = st.sampled_from([None, None, "하나", "둘"])
QUESTIONS = st.sampled_from(["안녕", "뭐해?", "a\u2028b👩‍👩‍👧"])
TOKENS = st.sampled_from([None, None, None, 2])
PIECES = st.sampled_from(["안녕 ", "하세요. ", "👩‍👩‍👧", " ", "\n", "\u2028"])
PLACES = st.tuples(st.integers(0, 4), st.sampled_from([0, 1, 3, 50, END]))

chat = st.builds(Ask, VIA, st.builds(Request, QUESTIONS, st.none(), TOKENS), REQUEST_IDS, WHO)
edit = st.builds(Ask, VIA, st.builds(Request, QUESTIONS, st.integers(1, 3)), REQUEST_IDS, WHO)
again = st.builds(Request, st.none(), st.sampled_from([0, 0, 1, 2, 4]))
regenerate = st.builds(Ask, st.just("tab"), again, REQUEST_IDS, WHO)
cancel = st.builds(Cancel, VIA, st.sampled_from([None, 0, 0, 1, 2]), WHO)
join = st.builds(Open, st.sampled_from(["tab", "tab", "sse"]), PLACES | st.none())
leave = st.builds(Leave, WHO)
back = st.builds(Open, st.just("tab"), st.sampled_from(["left", "left", "nonsense"]))
say = st.builds(Say, PIECES, st.sampled_from([1, 1, 1, 6_000]))
end = st.builds(End, st.sampled_from(["complete", "complete", "complete", "fail", "race"]))
history = st.builds(History, VIA, st.sampled_from([None, 1, 2, 3]), WHO)
busy = st.just(Busy())
ask = chat | edit | regenerate

STEP: st.SearchStrategy[Step] = st.one_of(
    *[
        st.just(Nothing()),
        chat,
        edit,
        regenerate,
        cancel,
        join,
        leave,
        back,
        say,
        end,
        history,
        busy,
    ]
)


def scene(*steps: st.SearchStrategy[Step]) -> st.SearchStrategy[list[Step]]:
    """Steps that lead somewhere more often than any would alone."""
    return st.tuples(*steps).map(list)


SCENES = st.lists(
    st.one_of(
        *[scene(STEP), scene(STEP, STEP), scene(chat, say, end), scene(ask, say, STEP, end)],
        *[scene(chat, say, cancel), scene(busy, ask, cancel), scene(busy, ask, STEP, busy)],
        scene(chat, STEP, end).map(lambda steps: [*steps, steps[0]]),
        scene(ask, say, leave, STEP, back, say, end),
    ),
    min_size=5,
    max_size=12,
).map(lambda scenes: [step for steps in scenes for step in steps])

WHOLE_LIFE = st.tuples(
    SCENES, st.just([]) | st.lists(STEP, max_size=4).map(lambda after: [Delete(), *after])
)


@given(WHOLE_LIFE)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
async def test_a_session_is_what_its_model_says_whatever_happens_to_it(
    life: tuple[list[Step], list[Step]],
) -> None:
    try:
        await lived([*life[0], *life[1]])
    except ExceptionGroup as group:
        # Every task group on the way has wrapped it; the sentence it says is what matters.
        raise cause(group) from None


async def lived(steps: list[Step]) -> None:
    """Play steps on a gateway of their own, and see that nothing is left of them in it."""
    async with stage() as on:
        play = Play(on, await on.gateway.new_session(), await on.gateway.new_session())
        await play.play(Open("tab", None))
        for step in steps:
            await play.play(step)
        await play.finish()
        house = on.gateway.house
        assert (house.turns.running, house.admission.calls, house.admission.waiting) == (0, 0, 0)


def cause(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
