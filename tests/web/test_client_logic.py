"""What the client decides, without a browser: tests in JavaScript, run by Node.js."""

import shutil
import subprocess
from pathlib import Path

import pytest

PURE = Path(__file__).parent / "pure"


@pytest.mark.parametrize("name", sorted(path.name for path in PURE.glob("*.test.mjs")))
def test_the_tests_in_javascript_pass(name: str) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no Node.js")
    command = [node, "--no-warnings", "--expose-gc", "--test", "--test-reporter=spec"]
    done = subprocess.run(
        [*command, PURE / name], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
