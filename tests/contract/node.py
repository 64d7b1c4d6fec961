"""Programs of npm: those that are installed beside one on the PATH, else those that npx fetches."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TYPESCRIPT = "typescript@7.0.2"
ASYNCAPI = "@asyncapi/parser@3.6.6"
"""What npx is asked for where nothing is installed; `.ci/run` names the same."""

WITHIN_S = 150

needs_node = pytest.mark.skipif(
    not shutil.which("npx"), reason="npx is not installed; Node.js brings it"
)


def run(package: str, *command: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a command that may use a package of npm; return how it ended and what it printed."""
    fetched = () if _installed(package) else ("npx", "--yes", "--package", package, "--")
    return subprocess.run(
        [*fetched, *command],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )


def _installed(package: str) -> bool:
    name, _, version = package.rpartition("@")
    for folder in os.environ["PATH"].split(os.pathsep):
        about = Path(folder).parent / name / "package.json"
        if folder.endswith(f"node_modules{os.sep}.bin") and about.is_file():
            return f'"version": "{version}"' in about.read_text()
    return False
