"""The benchmark of many nodes, small: nothing is lost on the way over Redis, or in PostgreSQL.

No time is asserted, absolute or relative: here it would only say how busy the machine is.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shutil import which

import pytest

from tests.bench import nodes
from tests.bench.loads import Load
from tests.bench.many import report, stored
from tests.bench.many.plan import SMALL, Step
from tests.bench.many.site import Servers, servers, shared
from tests.bench.measure import Record, wrong
from tests.bench.programs import COMPILER
from tests.bench.run import bench
from tests.servers.postgres import MISSING, programs, sql
from tests.servers.redis import executable

pytestmark = [
    pytest.mark.skipif(which(COMPILER) is None, reason=f"{COMPILER} is not installed"),
    pytest.mark.skipif(programs() is None, reason=MISSING),
    pytest.mark.skipif(executable() is None, reason="there is no redis-server"),
]

FEW = Load(name="few", says="a few clients", clients=3, tabs=1, tokens=30, interval_us=2_000)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with bench(tmp_path_factory.mktemp("bench")) as made, servers(made) as ready:
        yield ready


def test_every_byte_is_right_on_both_nodes_and_in_the_database(given: Servers) -> None:
    steps = [step for step in SMALL if step.name != "embedded"]
    measured = nodes.run(steps, given, 1, print)
    assert {record.load: record.faults for _, record in measured if not record.right} == {}
    found = report.medians([record for _, record in measured])
    assert found.keys() == {step.name for step in steps}
    assert found["two nodes"]["far_delay_p50_ms"].median > 0
    for part in {step.part for step in steps}:
        names = [step.name for step in steps if step.part == part]
        assert report.table(found, part, names).count("\n") == 1 + len(names)


def test_a_lost_token_is_a_fault_on_both_nodes_and_in_the_database(
    given: Servers, tmp_path: Path
) -> None:
    with shared(given, tmp_path, nodes=2, upstream_options=("--lose", "7")) as site:
        with site.clients(replace(FEW, within_s=10)) as clients:
            clients.go()
            result = clients.result()
        assert f"of {3 * 2 * 30} tokens arrived" in wrong(result)[0]
        assert result["errors"]["text"] >= 2 * 3
        assert "the database has a wrong reply to client 0, turn 0" in stored.faults(site, FEW)
        sql(
            site.database,
            "INSERT INTO leases SELECT session_id, 1, 1, 'x', 0 FROM turns LIMIT 1",
        )
        assert "the database has 1 leases of no open turn" in stored.faults(site, FEW)


def test_what_breaks_down_is_a_fault_and_no_reason_to_stop(given: Servers) -> None:
    def break_down(_: Servers, number: int) -> Record:
        raise TimeoutError("too slow")

    [(_, record)] = nodes.run([Step("flood", "a flood", break_down)], given, 1, print)
    assert (record.load, record.faults) == ("a flood", ("TimeoutError: too slow",))


def test_what_others_disturb_is_measured_again_and_the_calmest_counts(given: Servers) -> None:
    noise = iter([0.9, 0.4, 0.05])

    def measure(_: Servers, number: int) -> Record:
        return Record("noisy", "", number, (), {"noise_cores": next(noise)})

    step = Step("flood", "noisy", measure)
    [(_, record)] = nodes.run([step], given, 1, print, calm=2.0, calm_within_s=0)
    assert record.figures["noise_cores"] == 0.9
    [(_, record)] = nodes.run([step], given, 1, print, calm=0.1, calm_within_s=0)
    assert record.figures["noise_cores"] == 0.05
