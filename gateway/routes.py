"""Every path that is served, and who serves it."""

from starlette.routing import Route, WebSocketRoute

from gateway import documents, pages, rest, status
from gateway.guard import guarded
from gateway.metrics import metrics
from gateway.websocket import PATH, websocket_endpoint

ROUTES = [
    Route("/", pages.index),
    Route("/docs", pages.docs),
    Route("/web/{path:path}", pages.file),
    # The server leads there past the layers (`short_cut`); who mounts the application comes here.
    WebSocketRoute(PATH, websocket_endpoint),
    Route("/api/sessions", guarded(rest.all_sessions), methods=["GET", "POST"]),
    Route("/api/sessions/{session_id}", guarded(rest.session), methods=["GET", "DELETE"]),
    Route("/api/sessions/{session_id}/messages", guarded(rest.get_messages)),
    Route("/api/sessions/{session_id}/export", guarded(rest.get_export)),
    Route("/api/sessions/{session_id}/events", guarded(rest.get_events, by_ticket=True)),
    Route("/api/sessions/{session_id}/cancel", guarded(rest.cancel), methods=["POST"]),
    Route("/api/chat", guarded(rest.chat), methods=["POST"]),
    Route("/api/chat/stream", guarded(rest.chat_stream), methods=["POST"]),
    Route("/api/tickets", guarded(rest.create_ticket), methods=["POST"]),
    Route("/api/health", status.health),
    Route("/readyz", status.readiness),
    Route("/livez", status.liveness),
    Route("/metrics", metrics),
    *documents.routes(),
]
