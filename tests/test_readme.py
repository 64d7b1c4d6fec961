"""The README files: every setting once, links that lead somewhere, tests that exist."""

import re
from pathlib import Path

import pytest
from dotenv import dotenv_values

from gateway.settings import Settings
from tests.readmes import FIRST, ROOT, anchors, blocks, documents, links, missing, name_of

ROW = re.compile(r"^\|\s*`(?P<name>[A-Z][A-Z0-9_]*)`\s*\|", re.MULTILINE)
SIZE = re.compile(r"\b(?:WHOLE|FAULTS|SESSION|LOG|HOSTILE|FUZZ)_[A-Z_]+\b")
NAMES = sorted(name.upper() for name in Settings.model_fields)
ALL = {name_of(document): document for document in documents()}
EVERYTHING = "\n".join(document.read_text() for document in ALL.values())

MAX_FIRST_BYTES = 18 * 1024
"""What somebody new reads in five minutes, its Korean part included."""


def documented() -> list[str]:
    """The names in the first column of any table, as in ``| `PORT` | `8080` | … |``."""
    return [match["name"] for match in ROW.finditer(EVERYTHING)]


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_documented_once(name: str) -> None:
    assert documented().count(name) == 1


def test_nothing_is_documented_that_is_no_setting() -> None:
    assert set(documented()) <= set(NAMES)


def test_the_settings_of_the_first_readme_can_be_used_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [block] = blocks(FIRST.read_text(), "ini")
    file = tmp_path / ".env"
    file.write_text(block)
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    given = dotenv_values(file)
    assert set(given) <= set(NAMES)
    settings = Settings(_env_file=file)
    assert settings.model_fields_set == {name.lower() for name in given}
    assert (settings.port, settings.llm_max_concurrency) == (8080, 1)


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"\btests/[\w/]+(?:\.py\b|/)", EVERYTHING))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_size_that_can_be_set_for_a_test_is_read_by_one() -> None:
    sizes = set(SIZE.findall(EVERYTHING)) - set(NAMES)
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    assert sizes
    assert {name for name in sizes if f'"{name}"' not in tests} == set()


@pytest.mark.parametrize("document", ALL.values(), ids=ALL)
def test_every_link_and_anchor_leads_somewhere(document: Path) -> None:
    assert missing(document) == []


def test_every_other_readme_is_linked_from_the_first() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(FIRST.read_text())}
    others = {path for path in ALL.values() if path.name == "README.md"} - {FIRST}
    assert [name_of(path) for path in sorted(others - linked)] == []


def test_the_first_is_short_enough_to_be_read() -> None:
    assert len(FIRST.read_bytes()) <= MAX_FIRST_BYTES


def test_links_are_found_in_prose_and_not_in_code() -> None:
    text = '[a](b.md#c) `[d](e)` <!-- [f](g) -->\n```\n[h](i)\n```\n![j](k.png) <a href="l">\n'
    assert links(text) == ["b.md#c", "k.png", "l"]


def test_a_link_that_leads_nowhere_is_told(tmp_path: Path) -> None:
    document, other = tmp_path / "README.md", tmp_path / "other.md"
    other.write_text("# There\n")
    document.write_text(
        "# Here\n[a](#here) [b](#there) [c](other.md#there) [d](https://a.example)\n"
    )
    assert missing(document, root=tmp_path) == ["#there"]
    document.write_text("[a](gone.md) [b](other.md#here) ![c](gone.png) [d](/etc/hosts)\n")
    assert missing(document, root=tmp_path) == links(document.read_text())


def test_anchors_are_named_as_github_names_them() -> None:
    text = "# `A` b, c!\n## 빠른 시작\n## Same\n## Same\n```\n# none\n```\n### [Link](x) - 2\n"
    assert anchors(text) == {"a-b-c", "빠른-시작", "same", "same-1", "link---2"}
