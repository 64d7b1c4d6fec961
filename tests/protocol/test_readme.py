"""What is written of the wire is what the code says: frames and their fields, codes, calls."""

import json
import re
from collections.abc import Iterator
from typing import get_args

import pytest
from pydantic import BaseModel
from starlette.routing import Route, WebSocketRoute

from gateway.routes import ROUTES
from protocol import server_frames
from protocol.client_frames import ClientFrame
from protocol.errors import CATALOGUE, CloseCode
from protocol.rest import Problem
from protocol.server_frames import ServerFrame
from tests.readmes import FIRST, ROOT, blocks, documents, section

WIRE = (ROOT / "protocol" / "README.md").read_text()

Fields = dict[str, bool]
"""Names of fields, and whether each may be left out."""


def rows(heading: str) -> Iterator[list[str]]:
    """The cells of the table below a heading, without its head."""
    lines = [line for line in section(WIRE, heading).splitlines() if line.startswith("|")]
    for line in lines[2:]:
        if not line.startswith(("| `", "| 1", "| 4")):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


def written(fields: str) -> Fields:
    """Read fields as they are written, such as "`turn?`, `token`"."""
    names = [name.strip("` ") for name in fields.split(",") if name.strip()]
    return {name.removesuffix("?"): name.endswith("?") for name in names}


def coded(model: type[BaseModel]) -> Fields:
    """The same of a model: a client leaves out what has a default, the server what is None."""
    is_server = issubclass(model, ServerFrame)
    return {
        name: field.exclude_if is not None if is_server else not field.is_required()
        for name, field in model.model_fields.items()
        if name != "type"
    }


def type_of(model: type[BaseModel]) -> str:
    name: str = model.model_fields["type"].default
    return name


def server_models() -> list[type[BaseModel]]:
    found = [value for value in vars(server_frames).values() if isinstance(value, type)]
    return [kind for kind in found if issubclass(kind, ServerFrame) and kind is not ServerFrame]


CLIENT = {type_of(model): coded(model) for model in get_args(ClientFrame)}
SERVER = {type_of(model): coded(model) for model in server_models()}


@pytest.mark.parametrize(
    ("heading", "frames"), [("Client frames", CLIENT), ("Server frames", SERVER)]
)
def test_every_frame_is_written_with_its_fields(heading: str, frames: dict[str, Fields]) -> None:
    told = {kind.strip("`"): written(fields) for kind, fields, _ in rows(heading)}
    assert told == frames


def test_the_first_readme_has_the_same_frames() -> None:
    [block] = blocks(FIRST.read_text(), "text")
    client, server = block.split("\n\n")
    for part, frames in ((client, CLIENT), (server, SERVER)):
        lines = [line.partition(" ") for line in part.splitlines()[1:]]
        assert {kind: written(fields) for kind, _, fields in lines} == frames


def test_every_error_code_is_written_with_its_status() -> None:
    told = {code.strip("`"): (status, again) for code, status, again, _ in rows("Error codes")}
    assert told == {
        code: (str(kind.status), "yes" if kind.retryable else "no")
        for code, kind in CATALOGUE.items()
    }


def test_the_codes_that_only_http_has_are_written() -> None:
    _, others = get_args(Problem.model_fields["code"].annotation)
    text = section(WIRE, "Error codes").rpartition("|\n")[2]
    assert set(re.findall(r"`([a-z_]+)` \(4", text)) == set(get_args(others))


def test_every_close_code_is_written_and_by_its_range_whether_to_reconnect() -> None:
    told = {int(code): again for code, _, again in rows("Close codes")}
    assert set(told) == set(CloseCode)
    for code, again in told.items():
        if code >= 4000:
            assert again.startswith("yes" if code < 4500 else "no"), code


def test_every_call_is_written() -> None:
    told = {call.strip("`") for call, *_ in rows("REST")}
    calls = set[str]()
    for route in ROUTES:
        if isinstance(route, Route):
            methods = (route.methods or set()) - {"HEAD"}
            calls |= {f"{method} {route.path_format}" for method in methods}
        else:
            assert isinstance(route, WebSocketRoute)
    assert told == calls


def test_the_frames_that_are_shown_have_the_fields_of_today() -> None:
    shown = [
        json.loads(line.removeprefix("< ").removeprefix("data: "))
        for document in documents()
        for line in document.read_text().splitlines()
        if re.match(r"(?:< |data: )\{(?!.* … )", line)
    ]
    assert len(shown) > 10
    for frame in shown:
        fields = SERVER[frame.pop("type")]
        assert set(frame) <= set(fields)
        assert set(frame) >= {
            name for name, may_be_left_out in fields.items() if not may_be_left_out
        }


def test_the_commands_in_korean_are_those_in_english() -> None:
    english, _, korean = FIRST.read_text().partition("## 빠른 시작")
    commands = blocks(korean, "sh")
    assert commands[0] == blocks(english, "sh")[0]
    assert commands[-1] in blocks((ROOT / "llm" / "README.md").read_text(), "sh")
