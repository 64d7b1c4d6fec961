"""`key create`, as a program."""

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.auth.api_keys import KeyRing, parse_keys

ROOT = Path(__file__).parents[3]


def key_create(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway", "key", "create", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_a_key_is_shown_once_and_its_line_beside_it() -> None:
    ended = key_create("alice")
    assert ended.returncode == 0
    [key] = ended.stdout.splitlines()
    assert key not in ended.stderr
    found = KeyRing(parse_keys([ended.stderr.strip().rpartition(" ")[2]])).find(key)
    assert found is not None
    assert found.name == "alice"


def test_a_key_is_added_to_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    made = [key_create(name, "--file", str(file)) for name in ("alice", "bob")]
    ring = KeyRing({}, file)
    found = [ring.find(ended.stdout.strip()) for ended in made]
    assert [key and key.name for key in found] == ["alice", "bob"]
    assert file.stat().st_mode & 0o777 == 0o600
    assert str(file) in made[0].stderr


def test_a_key_that_could_not_be_written_down_is_not_shown(tmp_path: Path) -> None:
    ended = key_create("alice", "--file", str(tmp_path / "no" / "keys"))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("midm-gateway: ")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["a:b"], [""], ["a b"], []])
def test_a_name_that_is_not_allowed_is_refused(arguments: list[str], tmp_path: Path) -> None:
    file = tmp_path / "keys"
    ended = key_create(*arguments, "--file", str(file))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "NAME" in ended.stderr
    assert not file.exists()
