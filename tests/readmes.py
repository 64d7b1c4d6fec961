"""What the README files hold: their links, the anchors of their headings, their blocks of code."""

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
FIRST = ROOT / "README.md"
ROOMS = ("gateway", "llm", "protocol", "storage", "tests")

_FENCED = re.compile(r"^(?P<fence>```+|~~~+)(?P<kind>.*)\n(?P<code>(?:.*\n)*?)(?P=fence)\s*$", re.M)
_CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
# [text](target), ![text](target), <a href="target">, <img src="target">
_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)|\b(?:href|src)=\"([^\"]+)\"")
_HEADING = re.compile(r"^#{1,6} +(.+?)\s*#*$", re.MULTILINE)
_LINKED = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_NO_ANCHOR = re.compile(r"[^\w\- ]")


def documents() -> list[Path]:
    """The first one, and those of the rooms and below them, with what else is written there."""
    return [FIRST, *sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.md"))]


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


def links(text: str) -> list[str]:
    """Where a document links to, code left aside."""
    prose = _CODE.sub("", _COMMENT.sub("", _FENCED.sub("", text)))
    return [target or source for target, source in _LINK.findall(prose)]


def anchors(text: str) -> set[str]:
    """The names that GitHub gives the headings; of equal ones the second gets -1."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in _HEADING.findall(_FENCED.sub("", text)):
        plain = _LINKED.sub(r"\1", heading).replace("`", "")
        name = _NO_ANCHOR.sub("", plain.lower()).replace(" ", "-")
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


def blocks(text: str, kind: str) -> list[str]:
    """The fenced blocks of that kind, such as `sh`."""
    return [found["code"] for found in _FENCED.finditer(text) if found["kind"].strip() == kind]


def section(text: str, heading: str) -> str:
    """What stands below a heading, up to the next one of any level."""
    [found] = re.findall(rf"^#+ {re.escape(heading)}\n((?:(?!#+ ).*\n?)*)", text, re.MULTILINE)
    below: str = found
    return below


def missing(document: Path, *, root: Path = ROOT) -> list[str]:
    """The links of a document that lead nowhere below `root`."""
    text = document.read_text()
    return [link for link in links(text) if not _leads_somewhere(document, link, root)]


def _leads_somewhere(document: Path, link: str, root: Path) -> bool:
    if re.match(r"[a-z][a-z0-9+.-]*:", link):
        return True
    path, _, anchor = link.partition("#")
    target = (document.parent / path).resolve() if path else document
    if not target.is_relative_to(root) or not target.exists():
        return False
    return not anchor or (target.suffix == ".md" and anchor in anchors(target.read_text()))
