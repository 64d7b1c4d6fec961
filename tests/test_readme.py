"""The README documents every setting, with the default that the code has."""

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
