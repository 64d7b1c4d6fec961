"""One question on each transport, and all that its client sees."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import anyio
import httpx

from tests.gateway.harness import WITHIN_S, Gateway, Json


@dataclass(frozen=True)
class Seen:
    """What a client saw: `end` is the terminal event, or the body of a plain answer.

    `text` is the reply as the client shows it, `raw` every byte that could hold a secret.
    """

    transport: str
    status: int
    end: Json
    text: str
    raw: str
    headers: httpx.Headers


Ask = Callable[[Gateway, str, Json], Awaitable[Seen]]


@asynccontextmanager
async def leaving(gateway: Gateway) -> AsyncIterator[Gateway]:
    """The gateway as a client sees it that leaves no connection behind."""
    base_url = gateway.http.base_url
    async with httpx.AsyncClient(base_url=base_url, timeout=WITHIN_S, trust_env=False) as http:
        with anyio.fail_after(WITHIN_S):
            yield replace(gateway, http=http)


async def ask_websocket(gateway: Gateway, session_id: str, body: Json) -> Seen:
    """Ask on a WebSocket."""
    async with leaving(gateway) as here, here.tab(session_id) as tab:
        await tab.send(type="chat", **body)
        answer = await tab.next("accepted", "error")
        end = await tab.ends(answer["turn"]) if answer["type"] == "accepted" else answer
        raw = json.dumps(tab.frames, ensure_ascii=False)
        return Seen("websocket", 101, end, tab.text(end.get("turn", 0)), raw, httpx.Headers())


async def ask_sse(gateway: Gateway, session_id: str, body: Json) -> Seen:
    """Ask for a stream of events, and read it to its end."""
    body = {"session_id": session_id, **body}
    async with leaving(gateway) as here, here.sse("POST", "/api/chat/stream", json=body) as stream:
        answer = stream.response
        if answer.status_code != 200:
            await answer.aread()
            return Seen("sse", answer.status_code, answer.json(), "", answer.text, answer.headers)
        await stream.all()
        assert stream.done, "the stream of the original always ends with [DONE]"
        assert await stream.block() == b"", "nothing follows [DONE]"
        raw = stream.raw.decode()
        return Seen("sse", 200, stream.events[-1], stream.text(), raw, answer.headers)


async def ask_json(gateway: Gateway, session_id: str, body: Json) -> Seen:
    """Ask for a reply in one piece."""
    async with leaving(gateway) as here:
        answer = await here.http.post("/api/chat", json={"session_id": session_id, **body})
    end = answer.json()
    text = end.get("content", "")
    return Seen("json", answer.status_code, end, text, answer.text, answer.headers)


TRANSPORTS: tuple[Ask, ...] = (ask_websocket, ask_sse, ask_json)


async def ask_all(gateway: Gateway, sessions: dict[Ask, str], message: str) -> list[Seen]:
    """Ask at the same time on several transports, each in a session of its own."""
    seen: list[Seen] = []

    async def ask_one(ask: Ask, session_id: str) -> None:
        seen.append(await ask(gateway, session_id, {"message": message}))

    async with anyio.create_task_group() as tasks:
        for ask, session_id in sessions.items():
            tasks.start_soon(ask_one, ask, session_id)
    return seen
