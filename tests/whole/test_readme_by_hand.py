"""The commands with curl in the README files, run as they stand: they print what is printed there.

Identifiers, times and texts differ each time; fields, codes and the order of events do not.
"""

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.readmes import ROOT, blocks
from tests.whole.processes import gateway, simulator

DOCUMENTS = ("README.md", "protocol/README.md", "llm/README.md", "gateway/README.md")
HERE = "http://127.0.0.1:8080"
# What is the same each time, and so compared as it stands.
FIXED = {"type", "code", "status", "role", "retryable", "finish_reason", "turn", "attempt"}
PATIENCE_S = 10
GOES_ON_S = 1

pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")


@dataclass
class Step:
    """A command, and the lines that are said to follow it."""

    command: str
    printed: list[str] = field(default_factory=list)


def steps(document: str) -> Iterator[Step]:
    """The commands of a document's terminals that ask this gateway, and what sets their S."""
    for block in blocks((ROOT / document).read_text(), ""):
        step: Step | None = None
        for line in block.splitlines():
            if line.startswith("$ "):
                if step is not None:
                    yield step
                command = line.removeprefix("$ ")
                asks = command.startswith("curl ") and HERE in command
                step = Step(command) if asks or command.startswith("S=") else None
            elif step is not None:
                step.printed.append(line)
        if step is not None:
            yield step


def shape(value: Any, *, name: str = "") -> Any:
    """What of a JSON value is the same each time."""
    if name in FIXED and not isinstance(value, dict | list):
        return value
    match value:
        case dict():
            return {inner: shape(held, name=inner) for inner, held in value.items()}
        case list():
            return [shape(held) for held in value]
    return type(value).__name__


def said(lines: list[str]) -> list[Any]:
    """Read what curl printed: JSON, or events, of which several tokens in a row are as one."""
    found: list[Any] = []
    for line in filter(None, lines):
        if line.startswith(("id: ", ": ")):
            continue
        data = line.removeprefix("data: ")
        read = data if data == "[DONE]" else shape(json.loads(data))
        if not found or found[-1] != read:
            found.append(read)
    return found


async def run(command: str, session_id: str) -> list[str]:
    """Run a line of the shell that begins with curl; return what it prints."""
    goes_on = "/events" in command
    options = f"curl --no-progress-meter --max-time {GOES_ON_S if goes_on else PATIENCE_S}"
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        f"S={session_id}; {command.replace('curl', options, 1)}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == (28 if goes_on else 0), err.decode()
    return out.decode().splitlines()


@pytest.mark.parametrize("document", DOCUMENTS)
async def test_the_commands_of_a_readme_print_what_they_are_said_to_print(
    document: str, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    async with (
        simulator(tmp_path / "model", interval_ms=1) as model,
        gateway(tmp_path, LLM_SERVER_URL=model.url) as program,
    ):
        [created] = await run(f"curl -X POST {program.url}/api/sessions", "")
        session_id = json.loads(created)["session_id"]
        ran = 0
        for step in steps(document):
            if step.command.startswith("S="):
                session_id = json.loads(created)["session_id"]
                continue
            lines = await run(step.command.replace(HERE, program.url), session_id)
            assert said(lines) == said(step.printed), step.command
            created = lines[0]
            ran += 1
        assert ran, "it has no commands; name it here no longer"
