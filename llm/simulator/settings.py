"""How a simulator behaves as long as nobody asks for something else."""

from dataclasses import dataclass

from llm.simulator.faults import Faults, parse_faults
from llm.simulator.script import Script, improvised


@dataclass(frozen=True)
class SimulatorSettings:
    """What every call of a simulator starts from; all times are in milliseconds.

    `interval_ms` lies between two pieces (0: as fast as it can), `first_token_ms` before the first.
    `faults` are pairs as in `llm.simulator.faults`, for every call. `slow_health_ms` holds back
    `/health`. `freeze_ms` is how long the whole server is mute when it is asked what midm cannot
    survive (measured there: 60,000). `script` decides what is said. Raises `ValueError` for a time
    below 0 and for `faults` that do not parse.
    """

    interval_ms: float = 40.0
    first_token_ms: float = 200.0
    faults: str = ""
    slow_health_ms: float = 0.0
    freeze_ms: float = 0.0
    script: Script = improvised

    def __post_init__(self) -> None:
        for name in ("interval_ms", "first_token_ms", "slow_health_ms", "freeze_ms"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be below 0, but is {getattr(self, name)}")
        self.every_call()

    def every_call(self) -> Faults:
        """What a call without a directive of its own is to suffer."""
        base = Faults(interval_ms=self.interval_ms, first_token_ms=self.first_token_ms)
        return parse_faults(self.faults, base)
