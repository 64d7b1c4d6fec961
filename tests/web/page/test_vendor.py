"""What others wrote is here byte for byte as they published it, with their licences."""

import hashlib
import json
import re
from pathlib import Path

import pytest

VENDOR = Path(__file__).parents[3] / "gateway" / "web" / "vendor"
PARTS = json.loads((VENDOR / "manifest.json").read_text())


@pytest.mark.parametrize("part", PARTS, ids=[part["name"] for part in PARTS])
def test_a_library_is_the_one_that_the_manifest_names(part: dict[str, str]) -> None:
    content = (VENDOR / part["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == part["sha256"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", part["version"])
    assert part["license"]
    for name in part["license_files"]:
        assert (VENDOR / name).stat().st_size > 500


def test_nothing_is_there_that_the_manifest_does_not_name() -> None:
    named = {"manifest.json"}
    for part in PARTS:
        named |= {part["file"], *part["license_files"]}
    found = {str(path.relative_to(VENDOR)) for path in VENDOR.rglob("*") if path.is_file()}
    # That has a manifest of its own.
    assert {name for name in found if not name.startswith("swagger-ui/")} == named


def test_no_library_can_call_anybody() -> None:
    calls = re.compile(
        r"\bfetch\(|XMLHttpRequest|new WebSocket|EventSource|sendBeacon|importScripts"
        r"|\bimport\s*\(|\bfrom\s*[\"']"
    )
    for part in PARTS:
        text = (VENDOR / part["file"]).read_text()
        # Words that highlight.js colours are no calls: they stand in its strings.
        code = re.sub(r'"(?:[^"\\\n]|\\.)*"', '""', text)
        assert not calls.search(code), part["name"]
