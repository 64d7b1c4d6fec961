"""The circuit breaker, by a clock that moves when told to."""

import pytest

from llm.circuit import Circuit, CircuitOpen


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def circuit(clock: Clock) -> Circuit:
    return Circuit(max_failures=3, rest_s=10.0, clock=clock)


def opened(circuit: Circuit) -> Circuit:
    for _ in range(3):
        circuit.check()
        circuit.failed()
    return circuit


def refused_for_ms(circuit: Circuit) -> int:
    with pytest.raises(CircuitOpen) as caught:
        circuit.check()
    return caught.value.retry_after_ms


def test_calls_are_let_through_until_there_were_too_many_failures(circuit: Circuit) -> None:
    for _ in range(3):
        assert not circuit.open
        circuit.check()
        circuit.failed()
    assert circuit.open
    assert refused_for_ms(circuit) == 10_001


def test_five_failures_are_too_many_unless_told_otherwise() -> None:
    circuit = Circuit()
    for _ in range(4):
        circuit.failed()
    circuit.check()
    circuit.failed()
    assert 9_000 < refused_for_ms(circuit) <= 10_001


def test_only_failures_in_a_row_count(circuit: Circuit) -> None:
    for _ in range(5):
        circuit.failed()
        circuit.failed()
        circuit.succeeded()
    circuit.check()
    assert not circuit.open


def test_a_refusal_tells_how_long_is_left_and_never_zero(circuit: Circuit, clock: Clock) -> None:
    opened(circuit)
    clock.now_s += 7.5
    assert refused_for_ms(circuit) == 2_501
    clock.now_s += 2.4999
    assert refused_for_ms(circuit) == 1


def test_after_its_rest_one_call_is_let_through_and_no_second(
    circuit: Circuit, clock: Clock
) -> None:
    opened(circuit)
    clock.now_s += 10.0
    circuit.check()
    assert refused_for_ms(circuit) == 10_001


def test_a_trial_that_succeeds_closes_the_circuit(circuit: Circuit, clock: Clock) -> None:
    opened(circuit)
    clock.now_s += 10.0
    circuit.check()
    circuit.succeeded()
    assert not circuit.open
    for _ in range(3):
        circuit.check()


def test_a_trial_that_fails_opens_it_anew(circuit: Circuit, clock: Clock) -> None:
    opened(circuit)
    clock.now_s += 10.0
    circuit.check()
    clock.now_s += 4.0
    circuit.failed()
    assert refused_for_ms(circuit) == 10_001


def test_a_trial_that_tells_nothing_is_followed_by_another(circuit: Circuit, clock: Clock) -> None:
    opened(circuit)
    clock.now_s += 10.0
    circuit.check()
    clock.now_s += 10.0
    circuit.check()


def test_a_trial_that_is_not_made_is_given_back(circuit: Circuit, clock: Clock) -> None:
    opened(circuit)
    clock.now_s += 10.0
    circuit.check()
    circuit.not_called()
    circuit.check()
    assert refused_for_ms(circuit) == 10_001


def test_a_server_that_is_seen_well_is_tried_at_once(circuit: Circuit) -> None:
    opened(circuit)
    circuit.seen_well()
    circuit.check()
    assert refused_for_ms(circuit) == 10_001


def test_being_seen_well_is_no_proof(circuit: Circuit) -> None:
    # midm says that it is healthy whether it can chat or not.
    opened(circuit)
    circuit.seen_well()
    assert circuit.open
    circuit.check()
    circuit.failed()
    assert refused_for_ms(circuit) == 10_001


def test_being_seen_well_changes_nothing_of_a_closed_circuit(circuit: Circuit) -> None:
    circuit.failed()
    circuit.failed()
    circuit.seen_well()
    circuit.failed()
    assert refused_for_ms(circuit) == 10_001
