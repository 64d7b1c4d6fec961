"""Runs conformance vectors against a gateway; protocol/conformance/README.md is the format."""

import json
from base64 import b64decode
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from tests.conformance.matching import Mismatch, Variables, filled, match
from tests.conformance.wires import WITHIN_S, End, Events, Json, Socket, Wire

VECTORS = Path(__file__).parents[2] / "protocol" / "conformance"


@dataclass(frozen=True)
class Scenario:
    """What is done and what is to come of it."""

    file: str
    name: str
    needs: frozenset[str]
    steps: list[Json]

    def __str__(self) -> str:
        return f"{self.file}: {self.name}"


def scenarios() -> Iterator[Scenario]:
    """Read all that there are."""
    for file in sorted(VECTORS.glob("*.json")):
        if file.name == "format.json":
            continue
        for each in json.loads(file.read_text())["scenarios"]:
            needs = frozenset(each.get("needs", ()))
            yield Scenario(file.stem, each["name"], needs, each["steps"])


async def run(scenario: Scenario, url: str, given: Variables) -> None:
    """Do all steps of a scenario at a gateway; raises `Mismatch`, which says at which step."""
    async with AsyncExitStack() as stack:
        http = httpx.AsyncClient(base_url=url, trust_env=False, timeout=WITHIN_S)
        await stack.enter_async_context(http)
        play = Play(url, http, stack, dict(given))
        for number, step in enumerate(scenario.steps, 1):
            try:
                await play.do(step)
            except Mismatch as wrong:
                shown = json.dumps(step, ensure_ascii=False)
                raise Mismatch(f"{scenario}, step {number}: {wrong}\n{shown}") from None


class Play:
    """One scenario while it runs: its open wires, and what it has remembered."""

    def __init__(
        self, url: str, http: httpx.AsyncClient, stack: AsyncExitStack, variables: Variables
    ) -> None:
        self._url = url
        self._http = http
        self._stack = stack
        self._variables = variables
        self._wires: dict[str, Wire] = {}

    async def do(self, step: Json) -> None:
        """Do one step."""
        match step:
            case {"open": _}:
                await self._open(step)
            case {"send": frame, "on": name}:
                await self._say(name, json.dumps(filled(frame, self._variables)))
            case {"say": text, "on": name, **others}:
                for _ in range(others.get("times", 1)):
                    await self._say(name, filled(text, self._variables))
            case {"send_bytes": encoded, "on": name}:
                await self._socket(name).inner.send(b64decode(encoded))
            case {"expect": pattern, "on": name}:
                await self._expect(name, pattern)
            case {"until": pattern, "on": name}:
                await self._until(name, pattern)
            case {"tokens": rule, "on": name}:
                await self._tokens(name, rule)
            case {"ends": reason, "on": name}:
                await self._ends(name, reason)
            case {"close": name}:
                await self._wires.pop(name).source.aclose()
            case {"request": request}:
                await self._request(request, step["expect"])
            case {"stream": name, "of": request}:
                await self._stream(name, request, step.get("expect", {}))
            case _:
                raise ValueError(f"no such step: {step}")

    async def _open(self, step: Json) -> None:
        step = filled(step, self._variables)
        query = urlencode(step.get("query", {}))
        socket = await connect(
            f"{self._url.replace('http', 'ws', 1)}/ws{'?' * bool(query)}{query}",
            additional_headers=step.get("headers"),
            subprotocols=[Subprotocol(name) for name in step.get("subprotocols", ())] or None,
            proxy=None,
            compression=None,
        )
        self._stack.push_async_callback(socket.close)
        self._wires[step["open"]] = Wire(Socket(socket))
        match(socket.subprotocol, step.get("subprotocol"), self._variables, "subprotocol")

    def _socket(self, name: str) -> Socket:
        source = self._wires[name].source
        assert isinstance(source, Socket), "nothing can be said to an event stream"
        return source

    async def _say(self, name: str, text: str) -> None:
        await self._socket(name).inner.send(text)

    async def _expect(self, name: str, pattern: Json) -> None:
        frame = await self._next(name, pattern.get("type"))
        try:
            match(frame, pattern, self._variables, "the frame")
        except Mismatch as wrong:
            raise Mismatch(f"{wrong}, in {frame}") from None

    async def _until(self, name: str, pattern: Json) -> None:
        while (frame := await self._next(name, pattern["type"]))["type"] != pattern["type"]:
            if frame["type"] == "error":
                raise Mismatch(f"an error came first: {frame}")
        match(frame, pattern, self._variables, "the frame")

    async def _next(self, name: str, kind: Any) -> Json:
        frame = await self._wires[name].next(kind)
        if isinstance(frame, End):
            raise Mismatch(f"nothing more came: {frame.reason}")
        return frame

    async def _tokens(self, name: str, rule: Json) -> None:
        """Read text; its cursors have to count its characters."""
        rule = filled(rule, self._variables)
        text, counted, place = "", 0, rule.get("after")
        while counted < rule.get("count", 1):
            frame = await self._next(name, None)
            match(frame, {"type": "token", "turn": rule["turn"]}, self._variables, "the frame")
            place = self._follows(place, frame)
            text, counted = text + frame["content"], frame["token_count"]
        while "count" not in rule and await self._goes_on(name):
            frame = await self._next(name, None)
            place = self._follows(place, frame)
            text += frame["content"]
        if "text" in rule:
            match(text, rule["text"], self._variables, "the text")
        self._variables |= {rule[k]: v for k, v in (("save", text), ("cursor", place)) if k in rule}

    async def _goes_on(self, name: str) -> bool:
        frame = await self._wires[name].peek()
        return isinstance(frame, dict) and frame["type"] == "token"

    def _follows(self, place: str | None, token: Json) -> str:
        turn, attempt, offset = token["id"].split(".")
        before = int(offset) - len(token["content"])
        if place is not None and place != f"{turn}.{attempt}.{before}":
            raise Mismatch(f"a gap or a repeat behind {place}: {token}")
        return str(token["id"])

    async def _ends(self, name: str, reason: int | str) -> None:
        frame = await self._wires[name].next()
        if frame != End(reason):
            raise Mismatch(f"should end with {reason}, is {frame}")

    async def _request(self, request: Json, expected: Json) -> None:
        response = await self._http.request(**self._asked(request))
        self._compare_head(response, expected)
        if "body" in expected:
            match(response.json(), expected["body"], self._variables, "the body")
        if "text" in expected:
            match(response.text, expected["text"], self._variables, "the text")

    async def _stream(self, name: str, request: Json, expected: Json) -> None:
        asked = self._http.stream(**self._asked(request))
        response = await self._stack.enter_async_context(asked)
        self._compare_head(response, {"status": 200, **expected})
        self._wires[name] = Wire(Events(response))

    def _asked(self, request: Json) -> Json:
        request = filled(request, self._variables)
        content = request.pop("body", None)
        call = {"method": request.pop("method"), "url": request.pop("path"), **request}
        return call if content is None else {**call, "content": content.encode()}

    def _compare_head(self, response: httpx.Response, expected: Json) -> None:
        if response.status_code != expected["status"]:
            raise Mismatch(f"status should be {expected['status']}, is {response.status_code}")
        for name, value in expected.get("headers", {}).items():
            match(response.headers.get(name, ""), value, self._variables, name)
