"""What anybody may ask: what this is, and how it is."""

from typing import Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.house import house_of
from gateway.replies import json_response
from protocol import rest
from protocol.about import NAME, VERSION
from storage.times import utc_now

ENDPOINTS = {
    "websocket": "GET /ws",
    "sessions": {
        "create": "POST /api/sessions",
        "list": "GET /api/sessions",
        "get": "GET /api/sessions/{session_id}",
        "delete": "DELETE /api/sessions/{session_id}",
        "messages": "GET /api/sessions/{session_id}/messages",
        "export": "GET /api/sessions/{session_id}/export",
        "events": "GET /api/sessions/{session_id}/events",
        "cancel": "POST /api/sessions/{session_id}/cancel",
    },
    "chat": {"completion": "POST /api/chat", "stream": "POST /api/chat/stream"},
    "tickets": "POST /api/tickets",
    "health": "GET /api/health",
    "readiness": "GET /readyz",
    "liveness": "GET /livez",
    "metrics": "GET /metrics",
    "descriptions": {
        "rest": "GET /openapi.json",
        "websocket": "GET /asyncapi.json",
        "schema": "GET /schema.json",
        "typescript": "GET /types.ts",
        "page": "GET /docs",
    },
    "files": "GET /web/{path}",
}


async def index(request: Request) -> Response:
    """Say what this is and where things are, for programs."""
    about = {"service": NAME, "version": VERSION, "status": "running"}
    return JSONResponse(about | {"endpoints": ENDPOINTS})


async def health(request: Request) -> Response:
    """Tell what works; 200 even where something does not."""
    house = house_of(request)
    model = await house.probe.model()
    database_connected = await house.probe.database()
    broker_connected = house.broker.ready and house.admission.ready
    well = model.available and database_connected and broker_connected
    return json_response(
        rest.Health(
            status="healthy" if well else "degraded",
            timestamp=utc_now(),
            llm_server_available=model.available,
            database_connected=database_connected,
            broker_connected=broker_connected,
            llm_server_busy=model.busy,
            llm_servers=rest.ModelServers(available=model.servers, total=house.probe.servers),
            simulated=house.settings.simulated,
            node=house.node,
            database="postgresql" if house.settings.shared else "sqlite",
            broker="redis" if house.settings.shared else "memory",
            connections=len(house.connections),
            running_turns=house.turns.running,
            queued_turns=house.admission.waiting,
            version=VERSION,
        )
    )


async def liveness(request: Request) -> Response:
    """Tell that the process answers, and nothing else: whoever hears nothing may restart it."""
    return JSONResponse({"alive": True})


async def readiness(request: Request) -> Response:
    """Tell whether new work is welcome here: 200 or 503, for whoever spreads it over nodes."""
    house = house_of(request)
    works: dict[Literal["broker", "database", "draining"], bool] = {
        "broker": house.broker.ready and house.admission.ready,
        "database": await house.probe.database(),
        "draining": not house.turns.draining,
    }
    missing = [name for name, well in works.items() if not well]
    return json_response(
        rest.Readiness(ready=not missing, missing=missing), 503 if missing else 200
    )
