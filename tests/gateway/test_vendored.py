"""What others made is here as they made it, under its licence, and may be known again."""

import hashlib
import json

import pytest

from gateway.pages import WEB

MANIFEST = WEB / "vendor" / "swagger-ui" / "manifest.json"
FILES = json.loads(MANIFEST.read_text())["sha256"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_the_one_that_was_published(name: str) -> None:
    assert hashlib.sha256((MANIFEST.parent / name).read_bytes()).hexdigest() == FILES[name]


def test_nothing_lies_there_that_is_not_in_the_manifest() -> None:
    assert {file.name for file in MANIFEST.parent.iterdir()} == {*FILES, MANIFEST.name}
    assert any("LICENSE" in name for name in FILES)
