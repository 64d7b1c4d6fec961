"""What OpenAI-compatible engines say when they refuse, and what to make of it. Pure.

Their words are read and never repeated: they may quote what a user has said, which no log is to
hold.
"""

import json
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from llm.call import OVERLOADED
from llm.client import ContextExceeded, UpstreamError, UpstreamFailed, UpstreamUnavailable

# llama-cpp-python and OpenAI; llama.cpp's server.
_CONTEXT_CODES = ("context_length_exceeded", "exceed_context_size_error")
# vLLM ("maximum context length is …", "longer than the maximum model length"), llama.cpp ("exceeds
# the available context size", "context size has been exceeded"), LM Studio ("context length of
# only"), Ollama ("exceeds the context length"), older vLLM and SGLang ("context window").
_CONTEXT_WORDS = re.compile(r"context (length|size|window)|maximum model length", re.IGNORECASE)

_MOVED = (301, 302, 303, 307, 308)
_ADVICE = {
    **dict.fromkeys(_MOVED, ": LLM_SERVER_URL leads elsewhere, and redirects are not followed"),
    401: ": LLM_API_KEY is missing or wrong",
    403: ": the key in LLM_API_KEY may not use this",
    404: ": LLM_MODEL is not served there, or LLM_SERVER_URL is no OpenAI-compatible API",
    405: ": LLM_SERVER_URL is no OpenAI-compatible API",
}
_REFUSED = frozenset({400, 422})


@dataclass(frozen=True)
class Dialect:
    """Where engines differ in what they take; the default suits all but a few."""

    asks_usage: bool = True
    """`stream_options.include_usage`: older and stricter engines refuse fields they do not know."""
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """OpenAI's own newer models take the second alone; many engines know the first alone."""

    def __str__(self) -> str:
        return f"{self.limit}, {'with' if self.asks_usage else 'without'} stream_options"


def failure(status: int, body: object) -> UpstreamError:
    """Turn a refusal into an error of ours; `body` is what JSON was in it, or None."""
    says = f"the model server answers with status {status}"
    if status in OVERLOADED:
        return UpstreamUnavailable(says)
    if status not in _ADVICE and _is_context(body):
        return ContextExceeded(f"{says}: the prompt is too long for the model's context")
    return UpstreamFailed(says + _ADVICE.get(status, ""))


def reported(event: dict[str, Any]) -> UpstreamError | None:
    """Find the error that an event, or an answer with status 200, reports; None if it is none.

    It may be `{"error": "text"}`, `{"error": {…}}` or, of older vLLM, `{"object": "error", …}`.
    """
    if not event.get("error") and event.get("object") != "error":
        return None
    if _is_context(event):
        return ContextExceeded("the model server reports that the model's context is exceeded")
    return UpstreamFailed("the model server reports an error")


def adapted(dialect: Dialect, status: int, body: object) -> Dialect | None:
    """Find what to ask instead of what was refused; None if it was not for the dialect."""
    if status not in _REFUSED or body is None or _is_context(body):
        return None
    words = json.dumps(body)
    if dialect.asks_usage and "stream_options" in words:
        return replace(dialect, asks_usage=False)
    if dialect.limit == "max_tokens" and "max_completion_tokens" in words:
        return replace(dialect, limit="max_completion_tokens")
    return None


def _is_context(body: object) -> bool:
    error = body.get("error") or body if isinstance(body, dict) else None
    if isinstance(error, str):
        return bool(_CONTEXT_WORDS.search(error))
    if not isinstance(error, dict):
        return False
    if any(error.get(name) in _CONTEXT_CODES for name in ("code", "type")):
        return True
    said = (error.get(name) for name in ("message", "detail"))
    return any(isinstance(text, str) and _CONTEXT_WORDS.search(text) for text in said)
