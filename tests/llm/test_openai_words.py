"""How real engines word a prompt that is too long, and what is no such thing."""

from typing import Any

import pytest

from llm.client import ContextExceeded, UpstreamFailed
from llm.openai_words import Dialect, adapted, failure

TOO_LONG: dict[str, Any] = {
    "llama-cpp-python": {
        "error": {
            "message": "…",
            "type": "invalid_request_error",
            "code": "context_length_exceeded",
        }
    },
    "llama.cpp": {
        "error": {
            "code": 400,
            "message": "request (9412 tokens) exceeds the available context size (8192 tokens)",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": 9412,
            "n_ctx": 8192,
        }
    },
    "vLLM": {
        "error": {
            "message": "This model's maximum context length is 32768 tokens. However, …",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        }
    },
    "vLLM, too many to generate": {
        "error": {
            "message": "'max_tokens' or 'max_completion_tokens' is too large: 4096. This model's"
            " maximum context length is 2048 tokens and your request has 12 input tokens",
            "code": 400,
        }
    },
    "vLLM, older": {
        "object": "error",
        "message": "The prompt is longer than the maximum model length of 4096.",
        "code": 400,
    },
    "LM Studio": {"error": "the model is loaded with context length of only 4096 tokens"},
    "Ollama": {"error": {"message": "the input length exceeds the context length"}},
}


@pytest.mark.parametrize("engine", TOO_LONG)
@pytest.mark.parametrize("status", [400, 413, 422, 500])
def test_a_prompt_that_is_too_long(engine: str, status: int) -> None:
    assert isinstance(failure(status, TOO_LONG[engine]), ContextExceeded)
    assert adapted(Dialect(), status, TOO_LONG[engine]) is None


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "context length",
        {"error": {"message": "unknown field"}},
        {"error": {"message": ["context length"], "code": ["x"]}},
        {"detail": "Server is pinned to 'tiny'; requested 'nope'."},
    ],
)
def test_any_other_refusal(body: Any) -> None:
    assert type(failure(400, body)) is UpstreamFailed
    assert adapted(Dialect(), 400, body) is None
