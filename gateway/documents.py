"""The contract for programs: what may be said, in the formats that tools read."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from protocol.asyncapi import asyncapi
from protocol.openapi import openapi
from protocol.schema import json_schema
from protocol.typescript import typescript


def _json(document: Callable[[], dict[str, Any]]) -> Callable[[], str]:
    return lambda: json.dumps(document(), ensure_ascii=False, indent=1) + "\n"


@dataclass(frozen=True)
class Document:
    """One description of the contract: its format, its file's name, its media type, its text."""

    format: str
    file: str
    media_type: str
    write: Callable[[], str]


DOCUMENTS = (
    Document("openapi", "openapi.json", "application/json", _json(openapi)),
    Document("asyncapi", "asyncapi.json", "application/json", _json(asyncapi)),
    Document("json-schema", "schema.json", "application/schema+json", _json(json_schema)),
    # No `video/mp2t`, which is what the suffix means to everybody else.
    Document("typescript", "types.ts", "text/plain", typescript),
)


@cache
def text_of(document: Document) -> bytes:
    """Write a document, once: it is the same as long as the program runs."""
    return document.write().encode()


def routes() -> list[Route]:
    """Serve each document under its file's name."""
    return [Route(f"/{document.file}", _served(document)) for document in DOCUMENTS]


def _served(document: Document) -> Callable[[Request], Awaitable[Response]]:
    async def serve(request: Request) -> Response:
        headers = {"Cache-Control": "no-cache"}
        return Response(text_of(document), media_type=document.media_type, headers=headers)

    return serve
