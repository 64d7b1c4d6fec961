"""The fold vectors are sound, and the reference fold shows what they say."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from protocol.schema import json_schema
from tests.conformance.fold import Conversation
from tests.conformance.running import VECTORS

Json = dict[str, Any]

FOLD = VECTORS / "fold"
FILES = [file for file in sorted(FOLD.glob("*.json")) if file.name != "format.json"]
CASES = [
    pytest.param(case["steps"], id=f"{file.stem}: {case['name']}")
    for file in FILES
    for case in json.loads(file.read_text())["cases"]
]
FORMAT = json.loads((FOLD / "format.json").read_text())
DEFINED = json_schema()["$defs"]


def play(steps: list[Json], conversation: Conversation) -> list[tuple[Json, Json]]:
    """Do the steps; return each pair of what is shown and what should be."""
    seen = []
    for step in steps:
        match step:
            case {"apply": frame}:
                conversation.apply(frame)
            case {"load": page}:
                conversation.load(page)
            case {"reset": page}:
                conversation.reset(page)
            case {"shows": expected}:
                seen.append((conversation.shown(), expected))
    return seen


@pytest.mark.parametrize("steps", CASES)
def test_the_reference_shows_what_a_user_should_see(steps: list[Json]) -> None:
    seen = play(steps, Conversation())
    assert seen
    for shown, expected in seen:
        assert shown == expected


@pytest.mark.parametrize("steps", CASES)
def test_what_arrives_is_what_a_gateway_may_say(steps: list[Json]) -> None:
    for step in steps:
        name = {"apply": "ServerFrame", "load": "Messages", "reset": "Messages"}.get(
            next(iter(step))
        )
        value = next(iter(step.values()))
        if name and value.get("type") != "something_new":
            schema = {"$ref": f"#/$defs/{name}", "$defs": DEFINED}
            Draft202012Validator(schema).validate(value)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_keeps_to_the_format(file: Any) -> None:
    Draft202012Validator.check_schema(FORMAT)
    Draft202012Validator(FORMAT).validate(json.loads(file.read_text()))


class KeepsText(Conversation):
    """Forgets that a start empties."""

    def _start(self, frame: Json) -> None:
        before = self.turns.get(frame["turn"])
        super()._start(frame)
        self.turns[frame["turn"]].reply = before.reply if before else ""


class HidesNothing(Conversation):
    """Forgets that turns hide others."""

    def _start(self, frame: Json) -> None:
        super()._start({**frame, "replaces": frame["turn"]})


class HidesAgain(Conversation):
    """Lets the last one hide what was hidden."""

    def _start(self, frame: Json) -> None:
        for turn in self.turns.values():
            turn.replaced_by = None
        super()._start(frame)


class TakesEveryError(Conversation):
    """Takes any error for the end of the open turn."""

    def apply(self, frame: Json) -> None:
        still = self.shown()["open"]
        if frame["type"] == "error" and still:
            frame = {"turn": still, **frame}
        super().apply(frame)


class CountsForItself(Conversation):
    """Counts UTF-16 units, instead of keeping what it was told."""

    def apply(self, frame: Json) -> None:
        super().apply(frame)
        if frame["type"] == "token":
            turn, attempt, _ = frame["id"].split(".")
            units = len(self.turns[frame["turn"]].reply.encode("utf-16-le")) // 2
            self.cursor = f"{turn}.{attempt}.{units}"


class KeepsOldPage(Conversation):
    """Adds a page to what is shown."""

    def reset(self, page: Json) -> None:
        self.load(page)


WRONG = (KeepsText, HidesNothing, HidesAgain, TakesEveryError, CountsForItself, KeepsOldPage)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_a_client_that_is_wrong_is_found_out(wrong: Callable[[], Conversation]) -> None:
    seen = [pair for case in CASES for pair in play(case.values[0], wrong())]  # type: ignore[arg-type]
    assert any(shown != expected for shown, expected in seen)
