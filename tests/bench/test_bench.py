"""The benchmark, small: the gateway loses nothing and stays far ahead of the obvious one.

No absolute time is asserted; it would say more about the machine than about the gateway.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from shutil import which

import httpx
import pytest

from tests.bench.contenders import CONTENDERS, MIDM, Contender, Place
from tests.bench.loads import DIRECT, EVERYBODY, GATEWAY, OBVIOUS, QUICK_LOADS, Load
from tests.bench.measure import Record, measure
from tests.bench.processes import Command
from tests.bench.programs import COMPILER
from tests.bench.report import summary
from tests.bench.run import Plan, bench, run
from tests.bench.scene import Bench, staged
from tests.bench.text import reply_text, token_text

pytestmark = pytest.mark.skipif(
    which(COMPILER) is None, reason=f"{COMPILER} is not installed, and the programs are in C"
)

MAX_SHARE_OF_OBVIOUS = 1 / 2
"""How much of the obvious gateway's CPU time for a token the gateway may need; generous."""

PLAN = Plan(QUICK_LOADS, rounds=1, contenders=EVERYBODY)
FEW = Load(name="few", says="a few clients", clients=3, turns=2, tokens=40, interval_us=1_000)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench(tmp_path_factory.mktemp("bench")) as ready:
        yield ready


@pytest.fixture(scope="module")
def records(made: Bench) -> list[Record]:
    return run(PLAN, made, print)


def test_every_byte_is_right_on_every_client_and_in_the_database(records: list[Record]) -> None:
    assert len(records) == len(list(PLAN.steps()))
    assert {(r.load, r.contender): r.faults for r in records if not r.right} == {}


def test_a_token_costs_a_fraction_of_what_the_obvious_gateway_needs(records: list[Record]) -> None:
    ratios = {
        line.load: line.ratios["cpu_us_per_token"].median
        for line in summary(records)
        if line.contender == OBVIOUS
    }
    assert ratios["quick-streams-50"] < MAX_SHARE_OF_OBVIOUS, ratios


def test_watching_tabs_and_passers_by_are_checked_too(made: Bench) -> None:
    crowd = Load(name="crowd", says="", tabs=9, tokens=100, churn_per_s=50, churn_s=1)
    record = measure(made, crowd, CONTENDERS[GATEWAY], 0)
    assert record.faults == ()
    assert record.figures["churn_failed"] == 0
    assert record.figures["ready_p50_ms"] > 0


def test_a_lost_token_is_a_fault(made: Bench) -> None:
    forgetful = Contender(name="forgetful", speaks=MIDM, upstream_options=("--lose", "7"))
    record = measure(made, FEW, forgetful, 0)
    assert not record.right
    assert f"of {3 * 2 * 40} tokens arrived" in record.faults[0]


def test_a_lost_token_is_a_fault_behind_the_gateway_too(made: Bench) -> None:
    gateway = CONTENDERS[GATEWAY]
    forgetful = Contender(
        name="forgetful",
        speaks=gateway.speaks,
        command=gateway.command,
        stored=gateway.stored,
        upstream_options=("--lose", "7"),
    )
    faults = measure(made, FEW, forgetful, 0).faults
    assert any("tokens arrived" in fault for fault in faults)
    assert any("the database has a wrong reply" in fault for fault in faults)


def test_a_contender_that_does_not_start_is_a_fault_with_its_last_words(made: Bench) -> None:
    def dead(place: Place) -> Command:
        return Command(("sh", "-c", "echo no luck today"))

    record = measure(made, FEW, Contender(name="dead", speaks=MIDM, command=dead), 0)
    assert record.faults[0] == "DidNotStart: sh does not listen"
    assert record.faults[1] == "it said at last: 'no luck today'"
    assert record.figures == {}


def test_the_small_relay_carries_every_byte(made: Bench) -> None:
    def relay(place: Place) -> Command:
        ports = (str(place.port), str(place.upstream_port))
        return Command((str(place.programs.relay), *ports))

    assert measure(made, FEW, Contender(name="small", speaks=MIDM, command=relay), 0).right


def test_the_upstream_says_what_we_expect_it_to_say(made: Bench, tmp_path: Path) -> None:
    marker = "#midm slot=123 turn=4 tokens=300 us=0 ttft=0#"
    with staged(made, CONTENDERS[DIRECT], tmp_path) as scene:
        answer = httpx.post(
            f"http://127.0.0.1:{scene.port}/chat/stream",
            json={"messages": [{"role": "user", "content": marker}]},
            trust_env=False,
        )
    start, *chunks, complete, done = answer.text.removesuffix("\n\n").split("\n\n")
    assert start == 'data: {"type": "start", "message": "Stream started"}'
    assert done == "data: [DONE]"
    for index, chunk in enumerate(chunks):
        assert json.loads(chunk.removeprefix("data: ")) == {
            "type": "chunk",
            "content": token_text(123, 4, index),
            "accumulated": reply_text(123, 4, index + 1),
            "token_count": index + 1,
        }
    assert json.loads(complete.removeprefix("data: ")) == {
        "type": "complete",
        "full_response": reply_text(123, 4, 300),
        "total_tokens": 300,
    }
