"""Which trace a call of the model server belongs to, told to the server as its caller told it."""

from contextvars import ContextVar

TRACEPARENT: ContextVar[str] = ContextVar("TRACEPARENT", default="")
"""As in W3C Trace Context, section 3.2; empty where nothing is traced. Each task has its own."""
