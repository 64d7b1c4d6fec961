"""The gateway that most people would write first: every part of it is what tutorials show.

    LLM_SERVER_URL=http://127.0.0.1:8000 DATABASE=chat.db uvicorn tests.bench.obvious:app

It speaks the gateway's frames, so that the same clients can talk to it.
"""

import json
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiosqlite
import httpx
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

LLM_SERVER_URL = os.environ.get("LLM_SERVER_URL", "http://127.0.0.1:8000")
DATABASE = os.environ.get("DATABASE", "chat.db")
SYSTEM_PROMPT = "Mi:dm(믿:음)은 KT에서 개발한 AI 기반 어시스턴트이다."
MAX_CONTEXT_MESSAGES = 10

TABLE = """
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id TEXT NOT NULL,
    role TEXT NOT NULL,
    content TEXT NOT NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
)
"""
INDEX = "CREATE INDEX IF NOT EXISTS messages_by_session ON messages (session_id, id)"
INSERT = "INSERT INTO messages (session_id, role, content) VALUES (?, ?, ?)"
NEWEST = "SELECT role, content FROM messages WHERE session_id = ? ORDER BY id DESC LIMIT ?"


async def save_message(session_id: str, role: str, content: str) -> None:
    async with aiosqlite.connect(DATABASE, timeout=30) as db:
        await db.execute(INSERT, (session_id, role, content))
        await db.commit()


async def load_context(session_id: str) -> list[dict[str, str]]:
    async with aiosqlite.connect(DATABASE, timeout=30) as db:
        rows = list(await db.execute_fetchall(NEWEST, (session_id, MAX_CONTEXT_MESSAGES)))
    messages = [{"role": role, "content": content} for role, content in reversed(rows)]
    return [{"role": "system", "content": SYSTEM_PROMPT}, *messages]


async def stream_reply(body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    async with (
        httpx.AsyncClient(timeout=httpx.Timeout(120)) as client,
        client.stream("POST", f"{LLM_SERVER_URL}/chat/stream", json=body) as response,
    ):
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: "):
                continue
            data = line.removeprefix("data: ")
            if data == "[DONE]":
                break
            yield json.loads(data)


async def answer(websocket: WebSocket, session_id: str, frame: dict[str, Any]) -> None:
    await save_message(session_id, "user", frame["message"])
    body = {
        "messages": await load_context(session_id),
        "max_new_tokens": frame.get("max_new_tokens", 512),
        "temperature": 0.7,
        "do_sample": True,
    }
    message_id = str(uuid.uuid4())
    await websocket.send_json({"type": "start", "message_id": message_id})
    reply = ""
    count = 0
    async for event in stream_reply(body):
        if event["type"] == "chunk":
            reply += event["content"]
            count = event["token_count"]
            await websocket.send_json(
                {"type": "token", "content": event["content"], "token_count": count}
            )
        elif event["type"] == "error":
            await websocket.send_json({"type": "error", "message": event["message"]})
            return
    await save_message(session_id, "assistant", reply)
    await websocket.send_json({"type": "complete", "message_id": message_id, "total_tokens": count})


async def chat(websocket: WebSocket) -> None:
    await websocket.accept()
    session_id = websocket.query_params.get("session_id") or str(uuid.uuid4())
    await websocket.send_json({"type": "ready", "session_id": session_id})
    try:
        while True:
            frame = await websocket.receive_json()
            if frame.get("type") != "chat":
                continue
            try:
                await answer(websocket, session_id, frame)
            except httpx.HTTPError as error:
                await websocket.send_json({"type": "error", "message": str(error)})
    except WebSocketDisconnect:
        pass


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with aiosqlite.connect(DATABASE) as db:
        await db.execute("PRAGMA journal_mode = WAL")
        await db.execute(TABLE)
        await db.execute(INDEX)
        await db.commit()
    yield


app = Starlette(routes=[WebSocketRoute("/ws", chat)], lifespan=lifespan)
