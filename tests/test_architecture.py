"""Who may import whom. The rules are those of the house: change them there first."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("protocol", "llm", "storage", "gateway")
MAY_IMPORT = {
    "protocol": set[str](),
    "llm": {"protocol"},
    "storage": {"protocol"},
    "gateway": {"protocol", "llm", "storage"},
}
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
MAX_LINES = 400

SHELLS = {
    "gateway.websocket",
    "gateway.sse",
    "gateway.rest",
    "gateway.status",
    "gateway.pages",
    "gateway.documents",
    "gateway.guard",
    "gateway.problems",
    "gateway.metrics",
    "gateway.counting",
}
COMPOSERS = {"gateway.app", "gateway.routes", "gateway.server", "gateway.__main__"}
CORE = {"gateway.turns", "gateway.run", "gateway.outcome", "gateway.conversation"}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in MODULES}


def imported(path: Path) -> Iterator[str]:
    """Name the modules that a module imports when it runs, wherever in it that is said."""
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        match node := pending.pop():
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=otherwise):
                pending += otherwise
                continue
            case ast.Import(names=aliases):
                yield from (alias.name for alias in aliases)
            case ast.ImportFrom(module=module, names=aliases, level=level):
                assert level == 0, f"{path}: imports are absolute here"
                assert module is not None
                for alias in aliases:
                    inner = f"{module}.{alias.name}"
                    yield inner if inner in NAMES else module
        pending += ast.iter_child_nodes(node)


def ours(path: Path) -> set[str]:
    return {name for name in imported(path) if name.split(".")[0] in ROOMS}


GRAPH = {name_of(path): ours(path) for path in MODULES}


def test_the_test_sees_the_modules() -> None:
    assert {"gateway.app", "gateway.brokers.memory", "llm.queue", "storage.database"} <= NAMES
    assert "gateway.turns" in GRAPH["gateway.app"]
    assert "storage.log" in GRAPH["gateway.conversation"]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_the_rooms_it_may(room: str) -> None:
    allowed = MAY_IMPORT[room] | {room}
    strangers = [
        f"{name} imports {other}"
        for name, others in GRAPH.items()
        for other in others
        if name.split(".")[0] == room and other.split(".")[0] not in allowed
    ]
    assert strangers == []


def test_nothing_imports_the_tests() -> None:
    for path in MODULES:
        assert not {name for name in imported(path) if name.split(".")[0] == "tests"}


def test_there_are_no_circles() -> None:
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize(
    ("below", "above"),
    [
        ("brokers", CORE | SHELLS | COMPOSERS | {"gateway.house"}),
        ("core", SHELLS | COMPOSERS | {"gateway.house"}),
        ("shells", COMPOSERS),
    ],
)
def test_inside_the_gateway_nobody_imports_upward(below: str, above: set[str]) -> None:
    rows = {"core": CORE, "shells": SHELLS}
    names = rows.get(below) or {name for name in NAMES if name.startswith("gateway.brokers")}
    assert names <= NAMES
    for name in names:
        assert not GRAPH[name] & above, name


def test_runner_and_connections_meet_in_the_log_alone() -> None:
    for runner in ("gateway.turns", "gateway.run"):
        assert "gateway.conversation" not in GRAPH[runner]
    assert not GRAPH["gateway.conversation"] & {"gateway.turns", "gateway.run"}


def test_the_protocol_is_pure() -> None:
    allowed = {"pydantic", "pydantic_core"}
    shut_out = {"asyncio", "anyio", "socket", "os", "time", "httpx", "starlette", "sqlalchemy"}
    for path in MODULES:
        if path.is_relative_to(ROOT / "protocol"):
            roots = {name.split(".")[0] for name in imported(path)}
            assert not roots & (shut_out - allowed), path


def test_those_who_open_a_database_alone_import_databases() -> None:
    importers = {name_of(p) for p in MODULES if any(n == "databases" for n in imported(p))}
    assert importers == {"storage.sqlite_file", "storage.postgres"}


def test_the_settings_alone_read_the_environment() -> None:
    readers = {"environ", "getenv", "environb"}
    for path in MODULES:
        nodes = ast.walk(ast.parse(path.read_text()))
        named = {n.attr for n in nodes if isinstance(n, ast.Attribute)}
        assert name_of(path) == "gateway.settings" or not named & readers, path
        assert not {f"os.{reader}" for reader in readers} & set(imported(path)), path


def test_settings_of_pydantic_are_read_in_one_place() -> None:
    importers = {name_of(p) for p in MODULES if "pydantic_settings" in set(imported(p))}
    assert importers == {"gateway.settings", "gateway.access_settings"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_is_too_long_to_read(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_nothing_bears_a_name_that_says_nothing() -> None:
    empty = ("manager", "service", "helper", "utils")
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                assert not node.name.lower().endswith(empty), f"{path}: {node.name}"
        assert path.stem not in (*empty, "util", "helpers", "common", "misc"), path


def test_no_task_is_dropped() -> None:
    """A task that nobody holds may be collected in the middle of its work."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Expr(value=ast.Call(func=ast.Attribute(attr="create_task"))):
                    pytest.fail(f"{path}:{node.lineno} drops a task")
                case ast.Expr(value=ast.Call(func=ast.Attribute(attr="ensure_future"))):
                    pytest.fail(f"{path}:{node.lineno} drops a task")


def test_a_gateway_that_is_alone_needs_no_driver_of_a_server() -> None:
    loaded = "import sys, gateway.__main__; print(*sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True
    )
    needless = {
        *("asyncpg", "redis", "hiredis", "opentelemetry", "requests"),
        "prompt_toolkit",
    }
    assert not needless & set(ended.stdout.split())


def test_those_who_trace_alone_import_opentelemetry() -> None:
    importers = {
        name_of(path)
        for path in MODULES
        if any(name.split(".")[0] == "opentelemetry" for name in imported(path))
    }
    assert importers == {"gateway.tracing.otel"}


def test_storage_and_the_driver_know_nothing_of_metrics() -> None:
    importers = {
        name_of(path)
        for path in MODULES
        if any(name.split(".")[0] == "prometheus_client" for name in imported(path))
    }
    assert importers == {"gateway.metrics"}
