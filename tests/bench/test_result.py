"""How a result comes about: what the database must hold, medians, ratios, tables, the plan."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.bench import contenders, machine
from tests.bench.__main__ import main
from tests.bench.contenders import CONTENDERS
from tests.bench.database import faults, stored_turns
from tests.bench.loads import DIRECT, EVERYBODY, GATEWAY, LOADS, OBVIOUS, QUICK_LOADS, RELAY, Load
from tests.bench.measure import Record
from tests.bench.obvious import INSERT, TABLE
from tests.bench.report import Spread, as_json, spread, summary, tables
from tests.bench.run import Plan
from tests.bench.text import reply_text

LOAD = Load(name="made-up", says="two clients", clients=2, turns=2, tokens=5)


def asked(slot: int, turn: int) -> tuple[str, str]:
    marker = f"#midm slot={slot} turn={turn} tokens=5 us=0 ttft=0#"
    return f"잘 들어 보세요: {marker}", reply_text(slot, turn, 5)


def record(contender: str, number: int, *wrong: str, **figures: float) -> Record:
    return Record(LOAD.name, contender, number, wrong, figures)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "bench.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(TABLE)
        for slot in range(2):
            for turn in range(2):
                question, reply = asked(slot, turn)
                for role, content in (("user", question), ("assistant", reply)):
                    connection.execute(INSERT, (f"session {slot}", role, content))
        connection.commit()
    return path


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute(statement).rowcount == 1
        connection.commit()


def found(path: Path) -> list[str]:
    query = CONTENDERS[OBVIOUS].stored
    assert query is not None
    return faults(stored_turns(path, query), LOAD)


def test_what_was_said_and_stored_once_is_right(database: Path) -> None:
    assert found(database) == []


def test_one_wrong_character_in_the_database_is_found(database: Path) -> None:
    change(database, "UPDATE messages SET content = replace(content, '[s1', '[s7') WHERE id = 6")
    assert found(database) == ["the database has a wrong reply to client 1, turn 0"]


def test_a_reply_that_is_missing_is_found(database: Path) -> None:
    change(database, "DELETE FROM messages WHERE id = 8")
    assert found(database) == ["the database has a wrong reply to client 1, turn 1"]


def test_a_turn_that_is_missing_or_there_twice_is_found() -> None:
    three = [asked(0, 0), asked(0, 1), asked(1, 0)]
    assert faults(three, LOAD) == ["the database has client 1, turn 1 0 times"]
    five = [*three, asked(1, 1), asked(0, 1)]
    assert faults(five, LOAD) == ["the database has client 0, turn 1 2 times"]


def test_a_question_that_nobody_asked_is_found() -> None:
    every = [asked(slot, turn) for slot in range(2) for turn in range(2)]
    assert faults([*every, ("who is there?", None)], LOAD) == [
        "the database has a question that nobody asked: 'who is there?'"
    ]


def test_rounds_are_summed_up_by_their_median_and_their_spread() -> None:
    assert spread([3.0, 1.0, 8.0]) == Spread(median=3.0, lowest=1.0, highest=8.0)
    assert spread([2.0, 4.0]) == Spread(median=3.0, lowest=2.0, highest=4.0)


def test_ratios_are_made_within_a_round_for_machines_drift_between_rounds() -> None:
    gateway, obvious = (
        [record(name, number, cpu_us_per_token=cost) for number, cost in enumerate(costs)]
        for name, costs in ((GATEWAY, (10, 20, 40)), (OBVIOUS, (100, 100, 200)))
    )
    lines = {line.contender: line for line in summary([*gateway, *obvious])}
    assert lines[OBVIOUS].ratios == {"cpu_us_per_token": Spread(0.2, 0.1, 0.2)}
    assert lines[GATEWAY].ratios == {}


def test_what_the_gateway_adds_is_what_no_gateway_does_not_need() -> None:
    records = [record(GATEWAY, 0, delay_p50_ms=1.5), record(DIRECT, 0, delay_p50_ms=0.5)]
    lines = {line.contender: line for line in summary(records)}
    assert lines[GATEWAY].added == {"delay_p50_ms": Spread(1.0, 1.0, 1.0)}
    assert lines[DIRECT].added == {}


def test_figures_of_a_wrong_run_count_for_nothing() -> None:
    records = [
        record(GATEWAY, 0, cpu_us_per_token=10),
        record(GATEWAY, 1, "a token was lost", cpu_us_per_token=1),
        record(OBVIOUS, 0, cpu_us_per_token=100),
        record(OBVIOUS, 1, cpu_us_per_token=100),
    ]
    gateway, obvious = summary(records)
    assert (gateway.right, gateway.rounds) == (1, 2)
    assert gateway.figures["cpu_us_per_token"] == Spread(10, 10, 10)
    assert obvious.ratios["cpu_us_per_token"] == Spread(0.1, 0.1, 0.1)
    assert "**WRONG** 1/2" in tables([gateway, obvious], [LOAD])


def test_the_tables_show_medians_spread_and_ratios_and_a_dash_for_what_there_is_not() -> None:
    records = [
        record(GATEWAY, 0, cpu_us_per_token=10, tokens_per_s=1000),
        record(DIRECT, 0, tokens_per_s=2000),
        record(GATEWAY, 1, cpu_us_per_token=20, tokens_per_s=1000),
        record(DIRECT, 1, tokens_per_s=2000),
    ]
    costs, ratios = tables(summary(records), [LOAD]).split("\n\n")
    _, _, gateway, direct = costs.splitlines()
    assert gateway.startswith("| two clients | gateway | **15.0** (10.0…20.0) | – | 1,000 |")
    assert direct.startswith("| two clients | direct | – | – | 2,000 |")
    assert ratios.splitlines()[2].startswith("| two clients | – | – | **0.50** (0.50…0.50) | – |")


def test_the_json_holds_every_record_and_the_summary() -> None:
    records = [record(GATEWAY, 0, cpu_us_per_token=10)]
    whole = as_json(records, [LOAD], machine=machine.description(), commit="c0ffee")
    read = json.loads(json.dumps(whole))
    assert read["records"][0]["figures"] == {"cpu_us_per_token": 10}
    assert read["summary"][0]["figures"]["cpu_us_per_token"]["median"] == 10
    assert read["loads"][0]["clients"] == 2
    assert read["commit"] == "c0ffee"


@pytest.mark.parametrize("packed", [False, True])
def test_the_commit_is_read_from_the_files_of_git(packed: bool, tmp_path: Path) -> None:
    git = tmp_path / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    where = git / ("packed-refs" if packed else "refs/heads/main")
    where.write_text("c0ffee refs/heads/main\n" if packed else "c0ffee\n")
    assert machine.commit(tmp_path) == "c0ffee"


def test_without_git_there_is_no_commit(tmp_path: Path) -> None:
    assert machine.commit(tmp_path) is None


def test_contenders_take_turns_and_are_spared_what_they_cannot_do() -> None:
    some = Load(name="some", says="", contenders=(GATEWAY, RELAY))
    plan = Plan((some,), rounds=2, contenders=(GATEWAY, RELAY, OBVIOUS))
    steps = [(number, contender.name) for _, number, contender in plan.steps()]
    assert steps == [(0, GATEWAY), (0, RELAY), (1, GATEWAY), (1, RELAY)]


def test_every_contender_is_known_and_described() -> None:
    assert set(CONTENDERS) == set(EVERYBODY) == set(contenders.description())
    assert all(set(load.contenders) <= set(EVERYBODY) for load in (*LOADS, *QUICK_LOADS))


@pytest.mark.parametrize("arguments", [["--loads", "all"], ["--only", "us"], ["--rounds", "0"]])
def test_a_mistyped_command_is_explained(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert repr(arguments[1]) in capsys.readouterr().err


def test_without_a_compiler_the_command_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert main(["--quick"]) == 2
    assert capsys.readouterr().err == (
        "cannot measure: gcc is not installed (Debian: apt-get install gcc libc6-dev)\n"
    )
