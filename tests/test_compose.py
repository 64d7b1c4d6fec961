"""compose.yaml speaks of settings, files and commands that exist.

No engine runs these tests, so nothing here builds or starts a container.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.routing import Match

from gateway.__main__ import main
from gateway.app import ROUTES
from gateway.server import CLOSE_WITHIN_S
from gateway.settings import Settings
from llm.simulator import SimulatorSettings

ROOT = Path(__file__).parent.parent
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

GATEWAY: dict[str, Any] = SERVICES["gateway"]
DOCKERFILE: str = GATEWAY["build"]["dockerfile_inline"]


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What the gateway's container makes of its environment."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in GATEWAY["environment"].items():
        monkeypatch.setenv(name, by_default(value))
    return Settings(_env_file=None)


def by_default(value: str) -> str:
    """Fill in the defaults of `${NAME:-default}`."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


def instructions(name: str) -> list[list[str]]:
    """The arguments of every instruction of that name in the Dockerfile."""
    lines = [line.split() for line in DOCKERFILE.splitlines()]
    return [arguments for instruction, *arguments in lines if instruction == name]


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_every_variable_is_a_setting(service: dict[str, Any]) -> None:
    known = {name.upper() for name in Settings.model_fields}
    assert set(service.get("environment", {})) <= known


def test_every_service_is_built_from_the_same_lines() -> None:
    assert all(service["build"] == GATEWAY["build"] for service in SERVICES.values())


def test_what_is_copied_exists_and_is_all_that_the_package_is_made_of() -> None:
    copied = {name.rstrip("/") for *sources, _ in instructions("COPY") for name in sources}
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert copied == {"pyproject.toml", "constraints.txt", PROJECT["project"]["readme"]} | set(
        wheel["packages"]
    )
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_runs_our_command_and_not_as_root() -> None:
    [command] = instructions("CMD")
    assert yaml.safe_load(" ".join(command)) == ["midm-gateway"]
    assert "midm-gateway" in PROJECT["project"]["scripts"]
    assert instructions("USER") == [["midm"]]


def test_the_model_is_the_simulator_where_the_gateway_looks_for_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    listened: list[tuple[str, int]] = []

    def run_simulator(_: SimulatorSettings, *, host: str, port: int) -> None:
        listened.append((host, port))

    monkeypatch.setattr("gateway.__main__.run_simulator", run_simulator)
    program, *arguments = SERVICES["model"]["command"]
    assert program in PROJECT["project"]["scripts"]
    assert main(arguments) == 0
    [(host, port)] = listened
    assert host == "0.0.0.0"
    assert settings.llm_server_url == f"http://model:{port}"


def test_only_this_machine_reaches_the_gateway(settings: Settings) -> None:
    assert GATEWAY["ports"] == [f"127.0.0.1:8080:{settings.port}"]
    assert "ports" not in SERVICES["model"]


def test_conversations_are_kept_in_the_volume(settings: Settings) -> None:
    [volume] = GATEWAY["volumes"]
    assert settings.database_path.is_relative_to(volume.partition(":")[2])


def test_a_stop_leaves_time_to_drain(settings: Settings) -> None:
    grace_s = int(GATEWAY["stop_grace_period"].removesuffix("s"))
    assert grace_s >= settings.drain_seconds + CLOSE_WITHIN_S


def test_the_health_check_asks_what_the_gateway_serves(settings: Settings) -> None:
    *_, program = GATEWAY["healthcheck"]["test"]
    compile(program, "healthcheck", "exec")
    assert f'("127.0.0.1", {settings.port}' in program
    [(method, path)] = re.findall(r'request\("(\w+)", "([^"]+)"\)', program)
    scope = {"type": "http", "method": method, "path": path, "headers": []}
    assert any(route.matches(scope)[0] is Match.FULL for route in ROUTES)
