"""compose.yaml speaks of settings, files and commands that exist.

No engine runs these tests, so nothing here builds or starts a container. That the configuration of
nginx does what it is for is tested with a real one, in `tests/whole/test_behind_nginx.py`.
"""

import re
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.routing import Match

from gateway.__main__ import main
from gateway.hosts import Hosts
from gateway.routes import ROUTES
from gateway.server import CLOSE_WITHIN_S
from gateway.settings import Settings
from gateway.sse import KEEP_ALIVE_S
from llm.simulator import SimulatorSettings
from tests.whole.nginx import compose_configuration

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

GATEWAY: dict[str, Any] = SERVICES["gateway"]
MANY: dict[str, Any] = {name: SERVICES[name] for name in ("gateway-1", "gateway-2", "gateway-3")}
SIMULATED = {"gateway": GATEWAY, **MANY}
ENGINES = ("vllm", "llamacpp")
BEFORE_ENGINES: dict[str, Any] = {name: SERVICES[f"gateway-{name}"] for name in ENGINES}
GATEWAYS = {**SIMULATED, **{f"gateway-{name}": each for name, each in BEFORE_ENGINES.items()}}
OURS = {**GATEWAYS, "model": SERVICES["model"]}
OTHERS = ("postgres", "valkey", "nginx")
MONITORING = ("prometheus", "grafana")
DOCKERFILE: str = GATEWAY["build"]["dockerfile_inline"]

_DEFAULT = re.compile(r"\$\{\w+:-([^}]*)\}")
_DOLLAR = re.compile(r"\$(?!\$|\{\w+:-[^}]*\})")

many = pytest.mark.parametrize("service", MANY.values(), ids=MANY)


def settings_of(service: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What a gateway's container makes of its environment."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in service["environment"].items():
        monkeypatch.setenv(name, by_default(value))
    return Settings(_env_file=None)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    return settings_of(GATEWAY, monkeypatch)


def by_default(value: str) -> str:
    """Fill in the defaults of `${NAME:-default}`."""
    return _DEFAULT.sub(r"\1", value)


def instructions(name: str) -> list[list[str]]:
    """The arguments of every instruction of that name in the Dockerfile."""
    lines = [line.split() for line in DOCKERFILE.splitlines()]
    return [arguments for instruction, *arguments in lines if instruction == name]


def option(service: dict[str, Any], name: str) -> str:
    """What follows an option in a command."""
    [value] = [value for before, value in pairwise(service["command"]) if before == name]
    found: str = value
    return found


def texts(value: Any) -> list[str]:
    """Every text in a part of the file."""
    match value:
        case str():
            return [value]
        case dict():
            return [text for each in value.values() for text in texts(each)]
        case list():
            return [text for each in value for text in texts(each)]
    return []


def directive(name: str) -> list[str]:
    """What nginx is told by a directive, as often as it is there."""
    return re.findall(rf"^ *{name} ([^;{{]+);", compose_configuration(), re.MULTILINE)


def test_everything_here_is_looked_at() -> None:
    assert set(SERVICES) == {*OURS, *OTHERS, *MONITORING, *ENGINES}


# The image


@pytest.mark.parametrize("service", GATEWAYS.values(), ids=GATEWAYS)
def test_every_variable_is_a_setting(service: dict[str, Any]) -> None:
    known = {name.upper() for name in Settings.model_fields}
    assert set(service["environment"]) <= known


def test_every_service_of_ours_is_built_from_the_same_lines() -> None:
    for service in OURS.values():
        assert (service["build"], service["image"]) == (GATEWAY["build"], GATEWAY["image"])


def test_what_is_copied_exists_and_is_all_that_the_package_is_made_of() -> None:
    copied = {name.rstrip("/") for *sources, _ in instructions("COPY") for name in sources}
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert copied == {"pyproject.toml", "constraints.txt", PROJECT["project"]["readme"]} | set(
        wheel["packages"]
    )
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_has_what_many_gateways_need() -> None:
    [installed] = [
        arguments for arguments in instructions("RUN") if arguments[:2] == ["pip", "install"]
    ]
    assert installed[-1] == "'.[scale]'"
    assert "scale" in PROJECT["project"]["optional-dependencies"]


def test_the_image_runs_our_command_and_not_as_root() -> None:
    [command] = instructions("CMD")
    assert yaml.safe_load(" ".join(command)) == ["midm-gateway"]
    assert "midm-gateway" in PROJECT["project"]["scripts"]
    assert instructions("USER") == [["midm"]]


@pytest.mark.parametrize("service", OURS.values(), ids=OURS)
def test_ours_write_nowhere_but_where_they_are_told_and_may_do_nothing(
    service: dict[str, Any],
) -> None:
    assert service["read_only"]
    assert service["tmpfs"] == ["/tmp"]  # noqa: S108 - in a container of its own
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


# One gateway


@pytest.mark.parametrize("name", ["ALLOW_ANONYMOUS", "API_KEYS", "ALLOWED_HOSTS"])
def test_who_may_use_it_can_be_said_for_all_in_the_environment(name: str) -> None:
    for service in GATEWAYS.values():
        assert service["environment"][name].startswith(f"${{{name}:-")


def test_without_keys_everybody_on_this_machine_may(settings: Settings) -> None:
    assert settings.allow_anonymous
    assert not settings.authenticates


def test_pages_of_other_names_are_refused(settings: Settings) -> None:
    hosts = Hosts(settings.allowed_hosts, host=settings.host)
    assert all(hosts.allow(name) for name in ("localhost:8080", "127.0.0.1:8080", "[::1]:8080"))
    assert not hosts.allow("evil.example:8080")


def test_by_default_one_gateway_and_a_model_start() -> None:
    assert {name for name, service in SERVICES.items() if "profiles" not in service} == {
        "gateway",
        "model",
    }
    assert GATEWAY["depends_on"] == ["model"]


def test_the_model_is_the_simulator_where_the_gateways_look_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listened: list[tuple[str, int]] = []

    def run_simulator(_: SimulatorSettings, *, host: str, port: int) -> None:
        listened.append((host, port))

    monkeypatch.setattr("gateway.commands.simulate.run_simulator", run_simulator)
    program, *arguments = SERVICES["model"]["command"]
    assert program in PROJECT["project"]["scripts"]
    assert main(arguments) == 0
    [(host, port)] = listened
    assert host == "0.0.0.0"
    for service in SIMULATED.values():
        assert settings_of(service, monkeypatch).llm_server_url == f"http://model:{port}"
        assert "model" in service["depends_on"]


def test_only_this_machine_reaches_anything_and_of_each_kind_one_thing(settings: Settings) -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {
        **{
            name: [f"127.0.0.1:8080:{settings.port}"]
            for name in ("gateway", "gateway-vllm", "gateway-llamacpp")
        },
        "nginx": [f"127.0.0.1:8080:{directive('listen')[0]}"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
    }


def test_conversations_are_kept_in_the_volume(settings: Settings) -> None:
    [volume] = GATEWAY["volumes"]
    name, _, place = volume.partition(":")
    assert settings.database_path.is_relative_to(place)
    assert name in COMPOSE["volumes"]


@pytest.mark.parametrize("service", GATEWAYS.values(), ids=GATEWAYS)
def test_a_stop_leaves_time_to_drain(
    service: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    grace_s = int(service["stop_grace_period"].removesuffix("s"))
    assert grace_s >= settings_of(service, monkeypatch).drain_seconds + CLOSE_WITHIN_S


@pytest.mark.parametrize("service", GATEWAYS.values(), ids=GATEWAYS)
def test_the_health_check_asks_what_the_gateway_serves(
    service: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, program = service["healthcheck"]["test"]
    compile(program, "healthcheck", "exec")
    assert f'("127.0.0.1", {settings_of(service, monkeypatch).port}' in program
    [(method, path)] = re.findall(r'request\("(\w+)", "([^"]+)"\)', program)
    scope = {"type": "http", "method": method, "path": path, "headers": []}
    assert any(route.matches(scope)[0] is Match.FULL for route in ROUTES)


# Engines


engines = pytest.mark.parametrize("name", ENGINES)


@engines
def test_an_engine_and_its_gateway_are_a_profile_of_their_own(name: str) -> None:
    for service in (SERVICES[name], BEFORE_ENGINES[name]):
        assert service["profiles"] == [name]
    assert BEFORE_ENGINES[name]["depends_on"] == {name: {"condition": "service_healthy"}}
    assert BEFORE_ENGINES[name]["volumes"] == GATEWAY["volumes"]


@engines
def test_a_gateway_looks_for_its_engine_where_that_listens(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(BEFORE_ENGINES[name], monkeypatch)
    ports = {
        "vllm": option(SERVICES["vllm"], "--port"),
        "llamacpp": SERVICES["llamacpp"]["environment"]["LLAMA_ARG_PORT"],
    }
    port = ports[name]
    assert settings.llm_servers == [f"http://{name}:{port}"]
    assert settings.llm_api == "openai"
    assert settings.extra_body == {"top_k": 20, "top_p": 0.75}
    assert settings.database_path.is_relative_to("/data")
    checked = " ".join(SERVICES[name]["healthcheck"]["test"])
    assert f"http://127.0.0.1:{port}/health" in checked


def test_vllm_serves_what_its_gateway_asks_for() -> None:
    [model] = {each for each in SERVICES["vllm"]["command"] if "VLLM_MODEL:-" in each}
    assert BEFORE_ENGINES["vllm"]["environment"]["LLM_MODEL"] == model
    *_, program = SERVICES["vllm"]["healthcheck"]["test"]
    compile(program, "healthcheck", "exec")
    [device] = SERVICES["vllm"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


def test_llama_cpp_gets_as_many_calls_as_it_has_places() -> None:
    places = SERVICES["llamacpp"]["environment"]["LLAMA_ARG_N_PARALLEL"]
    assert BEFORE_ENGINES["llamacpp"]["environment"]["LLM_MAX_CONCURRENCY"] == places


@engines
def test_what_an_engine_downloads_is_kept(name: str) -> None:
    [volume] = SERVICES[name]["volumes"]
    kept, _, place = volume.partition(":")
    assert kept in COMPOSE["volumes"]
    assert SERVICES[name]["environment"]["HF_HOME"] == place


def test_what_can_be_chosen_is_said_at_the_top() -> None:
    [comment, _] = (ROOT / "compose.yaml").read_text().split("x-gateway:", 1)
    chosen = set(
        re.findall(r"\$\{((?:VLLM|LLAMACPP|HF)_\w+):-", str([SERVICES[n] for n in ENGINES]))
    )
    assert chosen
    assert {name for name in chosen if name not in comment} == set()


# Many gateways


def test_the_gateways_of_many_are_alike_in_all_but_their_names() -> None:
    alike = []
    for name, service in MANY.items():
        environment = dict(service["environment"])
        assert environment.pop("NODE_NAME") == name
        alike.append(service | {"environment": environment})
    assert alike[1:] == alike[:-1]


def test_all_that_many_gateways_need_is_in_their_profile() -> None:
    for name in (*MANY, *OTHERS):
        assert SERVICES[name]["profiles"] == ["scale"]


@many
def test_they_share_a_database_and_a_broker(
    service: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(service, monkeypatch)
    assert settings.shared
    postgres = SERVICES["postgres"]["environment"]
    user, password, name = (
        by_default(postgres[f"POSTGRES_{what}"]) for what in ("USER", "PASSWORD", "DB")
    )
    assert settings.database_url == f"postgresql://{user}:{password}@postgres:5432/{name}"
    assert settings.broker_url == "redis://valkey:6379/0"


def test_the_password_can_be_changed_in_one_place() -> None:
    [password] = [
        text for text in texts(SERVICES["postgres"]) if text.startswith("${POSTGRES_PASSWORD:-")
    ]
    for service in MANY.values():
        assert f":{password}@" in service["environment"]["DATABASE_URL"]


@many
def test_they_wait_until_what_they_cannot_start_without_is_well(service: dict[str, Any]) -> None:
    conditions = {name: needed["condition"] for name, needed in service["depends_on"].items()}
    assert conditions == {
        "model": "service_started",
        "postgres": "service_healthy",
        "valkey": "service_started",
    }
    assert "healthcheck" in SERVICES["postgres"]


@many
def test_there_are_connections_enough_in_postgresql(
    service: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    by_default, reserved = 100, 3
    wanted = settings_of(service, monkeypatch).database_connections * len(MANY)
    assert wanted <= by_default - reserved


def test_only_the_gateways_reach_what_they_share() -> None:
    on_it = {name for name, service in SERVICES.items() if "storage" in service.get("networks", [])}
    assert on_it == {*MANY, "postgres", "valkey"}
    assert SERVICES["postgres"]["networks"] == SERVICES["valkey"]["networks"] == ["storage"]
    assert COMPOSE["networks"]["storage"] == {"internal": True}


def test_postgresql_keeps_everything_and_valkey_nothing() -> None:
    [volume] = SERVICES["postgres"]["volumes"]
    name, _, place = volume.partition(":")
    assert name in COMPOSE["volumes"]
    # Since version 18 it lies elsewhere, and this would be kept in a volume without a name.
    assert (SERVICES["postgres"]["image"], place) == ("postgres:17", "/var/lib/postgresql/data")
    valkey = SERVICES["valkey"]
    assert "volumes" not in valkey
    assert (option(valkey, "--save"), option(valkey, "--appendonly")) == ("", "no")


def test_valkey_refuses_what_it_has_no_room_for_and_throws_nothing_out() -> None:
    assert option(SERVICES["valkey"], "--maxmemory-policy") == "noeviction"
    assert option(SERVICES["valkey"], "--maxmemory")


# nginx


def test_nginx_reads_the_configuration_that_is_here() -> None:
    [config] = SERVICES["nginx"]["configs"]
    assert config["source"] in COMPOSE["configs"]
    assert option(SERVICES["nginx"], "-c") == config["target"]
    # Creating such a file fails on a container that may not be written to.
    assert "read_only" not in SERVICES["nginx"]


def test_compose_leaves_every_dollar_that_is_meant_for_others() -> None:
    rest = [text.replace("$$", "") for text in texts(COMPOSE)]
    assert [text for text in rest if _DOLLAR.search(text)] == []


def test_nginx_knows_every_gateway_and_waits_for_all(settings: Settings) -> None:
    assert {
        name: needed["condition"] for name, needed in SERVICES["nginx"]["depends_on"].items()
    } == dict.fromkeys(MANY, "service_healthy")
    known = [server.partition(" ")[0] for server in directive("server")]
    assert known == [f"{name}:{settings.port}" for name in MANY] * 2
    assert all("resolve" in server for server in directive("server"))
    assert directive("zone"), "which `resolve` needs"
    assert directive("resolver")[0].startswith("127.0.0.11 ")


def test_nginx_waits_longer_than_anybody_is_silent(settings: Settings) -> None:
    everywhere, for_whole_replies = directive("proxy_read_timeout")
    assert int(everywhere.removesuffix("s")) >= 2 * max(settings.heartbeat_s, KEEP_ALIVE_S)
    assert for_whole_replies == "1h"
    assert settings.turn_timeout_s < 3_600


def test_nginx_takes_every_body_that_a_gateway_takes(settings: Settings) -> None:
    [limit] = directive("client_max_body_size")
    assert int(limit.removesuffix("m")) * 2**20 > settings.max_body_bytes


def test_nginx_writes_nowhere_who_said_what() -> None:
    assert directive("access_log") == ["off"]
    assert directive("error_log") == ["stderr crit"]


# Prometheus and Grafana


def test_all_that_watches_is_in_a_profile_of_its_own_and_pinned() -> None:
    for name in MONITORING:
        assert SERVICES[name]["profiles"] == ["monitoring"]
        assert re.search(r":v?\d+\.\d+\.\d+$", SERVICES[name]["image"])
        assert SERVICES[name]["cap_drop"] == ["ALL"]
        assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]


def test_what_they_read_is_here() -> None:
    mounted = {
        config["source"]: config["target"]
        for name in MONITORING
        for config in SERVICES[name]["configs"]
    }
    files = {
        name: config["file"] for name, config in COMPOSE["configs"].items() if "file" in config
    }
    assert mounted.keys() == files.keys()
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "gateway/monitoring").iterdir()}
    assert set(files.values()) == there - {"gateway/monitoring/README.md"}
    scraping = yaml.safe_load((ROOT / files["prometheus"]).read_text())
    assert scraping["rule_files"] == [mounted["alerts"]]
    assert f"--config.file={mounted['prometheus']}" in SERVICES["prometheus"]["command"]
    [provider] = yaml.safe_load((ROOT / files["dashboards"]).read_text())["providers"]
    assert Path(provider["options"]["path"]) == Path(mounted["dashboard"]).parent
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == mounted["dashboard"]


def test_prometheus_asks_every_gateway_and_grafana_asks_prometheus(settings: Settings) -> None:
    directory = ROOT / "gateway/monitoring"
    [job] = yaml.safe_load((directory / "prometheus.yml").read_text())["scrape_configs"]
    [found] = job["dns_sd_configs"]
    assert (found["names"], found["port"]) == (list(GATEWAYS), settings.port)
    [source] = yaml.safe_load((directory / "datasource.yml").read_text())["datasources"]
    [port] = SERVICES["prometheus"]["ports"]
    assert source["url"] == f"http://prometheus:{port.rpartition(':')[2]}"


@pytest.mark.parametrize("service", GATEWAYS.values(), ids=GATEWAYS)
def test_a_gateway_lets_prometheus_ask_and_nginx_lets_nobody(
    service: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(service, monkeypatch)
    assert (settings.metrics, settings.metrics_token) == ("all", "")
    assert "location = /metrics {\n" in compose_configuration()


def test_what_is_kept_of_the_figures_is_bounded_and_lies_in_volumes() -> None:
    command = SERVICES["prometheus"]["command"]
    assert {argument.partition("=")[0] for argument in command} >= {
        *("--storage.tsdb.retention.time", "--storage.tsdb.retention.size")
    }
    for name in MONITORING:
        [volume] = SERVICES[name]["volumes"]
        assert volume.partition(":")[0] in COMPOSE["volumes"]
    assert (
        f"--storage.tsdb.path={SERVICES['prometheus']['volumes'][0].partition(':')[2]}" in command
    )


def test_who_looks_changes_nothing() -> None:
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_SECURITY_ADMIN_PASSWORD"].startswith("${GRAFANA_PASSWORD:-")
