"""How far it goes: the page says what its script computes, and the script multiplies rightly."""

import json
from dataclasses import fields, replace

import pytest

from tests.bench import how_far
from tests.bench.how_far import FIGURES, PAGE, blocks, filled
from tests.bench.many import report
from tests.bench.many.model import ASSUMED, Assumed, Costs, needed
from tests.bench.many.storms import TakeUp, reconnect, taken_up
from tests.bench.measure import Record
from tests.bench.report import Spread

ONE_EACH = replace(ASSUMED, tabs={1: 1.0})
NOTHING = Costs(**{field.name: 0.0 for field in fields(Costs)})


def test_the_page_has_the_tables_that_its_script_makes() -> None:
    page = PAGE.read_text()
    made = blocks(json.loads(FIGURES.read_text()))
    assert filled(page, made) == page, "python -m tests.bench.how_far --write"
    assert [name for name in made if f"<!-- {name} -->" not in page] == []


def test_all_between_two_marks_is_replaced_and_nothing_else() -> None:
    page = "a\n<!-- x -->\nold\n<!-- end -->\nb\n<!-- y -->\n<!-- end -->\nc\n"
    assert filled(page, {"x": "1\n2", "y": "3"}) == (
        "a\n<!-- x -->\n1\n2\n<!-- end -->\nb\n<!-- y -->\n3\n<!-- end -->\nc\n"
    )


def test_a_million_users_multiplied_by_hand() -> None:
    costs = replace(
        NOTHING,
        token_us=50.0,
        idle_us_per_s=2.0,
        connection_kb=20.0,
        redis_token_us=2.0,
        redis_turn_us=300.0,
        postgres_turn_us=1_000.0,
        log_turn_bytes=10_000.0,
        stored_turn_bytes=4_000.0,
    )
    n = needed(1_200_000, ONE_EACH, costs)
    assert n.turns_per_s == 10_000
    assert n.tokens_per_s == 2_560_000
    assert n.running == 51_200
    assert n.told == 0
    assert n.node_cores == pytest.approx(2.56 * 50 + 2.4)
    assert n.nodes == 218  # 130.4 / 0.6
    assert n.redis_cores == pytest.approx(5.12)
    assert n.redis_shards == 11
    assert n.queue_cores == pytest.approx(3.0)
    assert n.queues == 6
    assert n.postgres_cores == pytest.approx(10.0)
    assert n.postgres_shards == 2
    assert n.log_mb_per_s == pytest.approx(100.0)
    assert n.memory_gb == pytest.approx(24.0)
    assert n.gb_per_day == pytest.approx(10_000 * 0.4 * 86_400 * 4_000 / 1e9)
    assert n.gpus == 1_024


def test_who_hears_of_a_turn_elsewhere_is_decided_by_chance() -> None:
    two, three = replace(ASSUMED, tabs={2: 1.0}), replace(ASSUMED, tabs={3: 1.0})
    assert two.listening(2) == (0.5, 0.5)
    assert two.listening(10) == pytest.approx((0.9, 0.9))
    # Two further tabs: on one other node or on two, unless both are where the turn is.
    assert three.listening(2) == pytest.approx((0.75, 0.75))
    assert three.listening(10) == pytest.approx((0.99, 9 * (1 - 0.9**2)))
    assert Assumed(tabs={1: 1.0}).listening(5) == (0, 0)


def test_clients_of_a_dead_node_come_back_at_the_pace_of_the_others() -> None:
    calm = reconnect(nodes=11, clients=10_000, accepts_per_s=2_000, jitter_s=5)
    assert 200 <= calm.peak_per_s <= 500
    assert calm.longest_wait_s < 0.1
    assert calm.all_back_s < 5.1
    crowded = reconnect(nodes=2, clients=20_000, accepts_per_s=2_000, jitter_s=5)
    assert crowded.all_back_s == pytest.approx(10, rel=0.01)
    assert crowded.longest_wait_s == pytest.approx(5, rel=0.05)


def test_turns_of_a_dead_node_are_taken_up_page_by_page() -> None:
    few = taken_up(nodes=2, turns=50)
    assert 4 < few < 8.5
    # One survivor goes on at once while pages are full: 5 ms each.
    assert taken_up(nodes=2, turns=1_000) - few == pytest.approx(950 * 0.005, rel=0.01)
    assert taken_up(nodes=2, turns=1_000) > taken_up(nodes=10, turns=1_000) > 4
    # Two that look together share a page, though not well: each comes to what the other has.
    at_once = TakeUp(look_s=(0, 0))
    alone = taken_up(nodes=2, turns=100, how=at_once)
    assert alone - 0.25 < taken_up(nodes=3, turns=100, how=at_once) < alone


def test_ratios_are_made_within_a_round_and_wrong_rounds_count_for_nothing() -> None:
    base, other = "50 streams, embedded", "50 streams, one node of many"

    def record(name: str, number: int, us: float, *faults: str) -> Record:
        return Record(name, "", number, faults, {"here_us_per_token": us})

    records = [
        *(record(base, 0, 10), record(other, 0, 20)),
        *(record(base, 1, 20), record(other, 1, 30)),
        *(record(base, 2, 1), record(other, 2, 99, "a wrong byte")),
    ]
    found = report.medians(report.with_ratios(records))
    assert found[other] == {
        "here_us_per_token": Spread(25, 20, 30),
        "here_us_per_token_ratio": Spread(1.75, 1.5, 2),
    }


def test_disturbed_rounds_count_only_where_there_is_no_calmer_one() -> None:
    def record(name: str, number: int, noise: float, *faults: str) -> Record:
        return Record(name, "", number, faults, {"noise_cores": noise})

    records = [
        *(record("a", 0, 0.1), record("a", 1, 0.9), record("a", 2, 0.8, "a wrong byte")),
        *(record("b", 0, 0.7), record("b", 1, 0.8)),
    ]
    assert report.undisturbed(records, None) == records
    assert report.undisturbed(records, 0.5) == [records[0], *records[2:]]


def test_a_table_leaves_out_what_nobody_has() -> None:
    found = {"x": {"here_us_per_token": Spread(33.3, 30, 40), "noise_cores": Spread(0, 0, 0)}}
    assert report.table(found, "stream", ["x"]).splitlines() == [
        "|  | CPU µs/token: its node | noise cores |",
        "| --- | --- | --- |",
        "| x | **33.3** | 0.00 |",
    ]


def test_the_script_prints_what_it_would_write(capsys: pytest.CaptureFixture[str]) -> None:
    assert how_far.main([]) == 0
    assert "connected users" in capsys.readouterr().out
