"""A web server that publishes a key set, well or badly, on a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from tests.gateway.auth.signing import Signer


class Publisher:
    """What is published, and how; `asked` counts the requests."""

    def __init__(self) -> None:
        self.port = 0
        self.asked = 0
        self.status = "200 OK"
        self.headers = ""
        self.body = b""
        self.came = asyncio.Event()
        self.answers = asyncio.Event()
        """Cleared by a test that wants requests to wait."""
        self.answers.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/jwks.json"

    def publish(self, *keys: Signer | dict[str, Any]) -> None:
        published = [key.jwk if isinstance(key, Signer) else key for key in keys]
        self.body = json.dumps({"keys": published}).encode()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.asked += 1
            self.came.set()
            await self.answers.wait()
            head = f"HTTP/1.1 {self.status}\r\n{self.headers}Content-Length: {len(self.body)}\r\n"
            writer.write(head.encode() + b"Connection: close\r\n\r\n" + self.body)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def publishing(*keys: Signer | dict[str, Any]) -> AsyncIterator[Publisher]:
    publisher = Publisher()
    publisher.publish(*keys)
    server = await asyncio.start_server(publisher.serve, "127.0.0.1", 0)
    publisher.port = server.sockets[0].getsockname()[1]
    try:
        yield publisher
    finally:
        publisher.answers.set()
        server.close()
        await server.wait_closed()
