"""The page's own files: small, each with one job, and none that knows another host."""

import re
from pathlib import Path

import pytest

WEB = Path(__file__).parents[3] / "gateway" / "web"
MODULES = sorted((WEB / "page").glob("*.js"))
SHOWN = [*MODULES, *WEB.glob("*.css"), WEB / "index.html", WEB / "app.webmanifest"]
MAX_LINES = 250


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_module_is_small_and_says_what_it_is_for(path: Path) -> None:
    text = path.read_text()
    assert text.startswith(("// ", "export default {"))
    assert text.count("\n") <= MAX_LINES
    # Markup comes into being in the sanitiser alone, and styles in the style sheets.
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text)


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.name)
def test_a_file_names_no_other_host_and_nothing_inline(path: Path) -> None:
    text = path.read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"""(?:https?:|wss?:)?//[a-z0-9-]+\.[a-z]""", text)
    if path.suffix == ".html":
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", text)


def test_every_string_is_used() -> None:
    names = re.findall(
        r'^  "?([\w.]+)"?: "', (WEB / "page" / "strings-en.js").read_text(), re.MULTILINE
    )
    told = "".join(
        path.read_text() for path in [*MODULES, WEB / "index.html"] if "strings" not in path.name
    )
    made = ("error.", "next.", "close.", "theme.", "state.", "key.", "detail.", "reason.", "idea")
    unused = [name for name in names if f'"{name}"' not in told and not name.startswith(made)]
    assert unused == []


def test_every_picture_is_drawn() -> None:
    page = (WEB / "index.html").read_text()
    drawn = set(re.findall(r'id="i-(\w+)"', page))
    assert set(re.findall(r'href="#i-(\w+)"', page)) <= drawn
    for path in MODULES:
        used = re.findall(r'(?:\bicon|changeIcon)\([^)]*"(\w+)"\)', path.read_text())
        assert set(used) <= drawn
