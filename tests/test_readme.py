"""The README documents every setting, and names only tests that exist."""

import re
from pathlib import Path

import pytest

from gateway.settings import Settings

README = Path(__file__).parents[1] / "README.md"
ROW = re.compile(r"^\|\s*`(?P<name>[A-Z][A-Z0-9_]*)`\s*\|", re.MULTILINE)
NAMES = sorted(name.upper() for name in Settings.model_fields)


def documented() -> list[str]:
    """The names in the first column of any table, as in ``| `PORT` | `8080` | … |``."""
    return [match["name"] for match in ROW.finditer(README.read_text())]


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_documented_once(name: str) -> None:
    assert documented().count(name) == 1


def test_nothing_is_documented_that_is_no_setting() -> None:
    assert set(documented()) <= set(NAMES)


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"\btests/[\w/]+\.py\b", README.read_text()))
    assert named
    assert [name for name in sorted(named) if not (README.parent / name).is_file()] == []


def test_every_size_that_can_be_set_for_a_test_is_read_by_one() -> None:
    sizes = set(re.findall(r"\b(?:WHOLE|FAULTS|SESSION|LOG)_[A-Z]+\b", README.read_text()))
    tests = "".join(path.read_text() for path in README.parent.glob("tests/*/*.py"))
    assert {name for name in sizes if f'"{name}"' not in tests} == set()
