"""A server that speaks midm's exact wire, and that of OpenAI, and makes its answers up.

It stands in for the model on a first run without one, in tests and in benchmarks. Its replies
begin with a label that says that they are simulated; faults are asked for in the message itself,
see `faults`. What it says and in which bytes is pure (`script`, `plan`, `wire`, `request`, and
`engine_wire`, `engine_request` for OpenAI's); `app`, `engine`, `stage` and `server` only wait and
send.
"""

from llm.simulator.app import create_simulator
from llm.simulator.server import run_simulator, serve_simulator
from llm.simulator.settings import SimulatorSettings

__all__ = ["SimulatorSettings", "create_simulator", "run_simulator", "serve_simulator"]
