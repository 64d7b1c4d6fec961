"""Driver for OpenAI-compatible servers: vLLM, llama.cpp, Ollama, transformers and their like."""

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

from llm.call import (
    HEALTH_BYTES,
    Limit,
    Upstream,
    encode,
    listen,
    read,
    require_events,
    require_sensible,
    server_url,
    template,
)
from llm.client import (
    Ending,
    Generation,
    Patience,
    PromptMessage,
    Say,
    UpstreamError,
    UpstreamFailed,
)
from llm.openai_models import first_model, missing
from llm.openai_reply import OpenAiReply
from llm.openai_words import Dialect, adapted, failure
from llm.reply import parse

logger = logging.getLogger(__name__)

_REFUSAL_BYTES = 64 * 1024


class OpenAi:
    """An OpenAI-compatible server at `base_url`, with or without the `/v1` at its end.

    `model` is the name to ask for; without one it is the first that the server lists. `api_key` is
    sent as a bearer token. `extra_body` is put into each request, such as `{"top_k": 20}`.

    What an engine refuses to know (`stream_options`, `max_tokens`) it is not asked again. Calls,
    limits and errors are as those of `llm.midm.Midm`; closing a response stops generation here.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str = "",
        api_key: str = "",
        extra_body: Mapping[str, Any] | None = None,
        patience: Patience = Patience(),  # noqa: B008 - frozen
        max_reply_chars: int = 1_000_000,
    ) -> None:
        self._model = model
        self._found_model = ""
        self._extra_body = dict(extra_body or {})
        self._patience = patience
        self._max_reply_chars = max_reply_chars
        self._upstream = Upstream()
        self._dialect = Dialect()
        self._complaint = ""
        url = _root(server_url(base_url))
        self._to_chat, self._to_models, self._to_health = (
            template(url, method, path, patience=patience, api_key=api_key)
            for method, path in (
                ("POST", "/v1/chat/completions"),
                ("GET", "/v1/models"),
                ("GET", "/health"),
            )
        )

    async def stream(
        self, messages: Sequence[PromptMessage], generation: Generation, say: Say
    ) -> Ending:
        """Ask for a reply and hand its pieces to `say` as they arrive.

        Once a `finish_reason` has come nothing can fail any more; usage, where the engine tells
        it, is waited for a second at most. Raises `UpstreamError`; what was said stands.
        """
        require_sensible(messages, generation)
        limit = Limit(self._patience.first_token_s)
        reply = self._reply(say)
        try:
            async with self._asked(messages, generation, limit=limit, stream=True) as response:
                require_events(response)
                silence_s = self._patience.silence_s
                return await listen(response, reply=reply, limit=limit, silence_s=silence_s)
        except UpstreamError:
            if reply.ending is None:
                raise
            return reply.ending
        finally:
            if reply.ignored:
                logger.warning("ignored %d events that made no sense", reply.ignored)

    async def complete(
        self, messages: Sequence[PromptMessage], generation: Generation, say: Say
    ) -> Ending:
        """Ask for a reply in one piece, handed to `say` once, unless it is empty.

        The whole answer has to be there within `patience.reply_s`. Raises `UpstreamError`.
        """
        require_sensible(messages, generation)
        limit = Limit(self._patience.reply_s)
        reply = self._reply(say)
        async with self._asked(messages, generation, limit=limit, stream=False) as response:
            answer = await read(response, reply.max_bytes)
        return reply.hear_whole(parse(answer))

    async def healthy(self, *, timeout_s: float = 2.0) -> bool:
        """Whether the server lists the model that is asked for, and does not say it is loading.

        A server that lists no model at all does not tell; it is taken at its word if there is a
        model to ask for. Raises `UpstreamTimeout` and `UpstreamUnavailable` as midm's driver does;
        both questions together have `timeout_s` seconds.
        """
        limit = Limit(timeout_s)
        status, listed = await self._get_models(limit)
        complaint = _complaint(status, listed, self._model)
        if not complaint:
            self._found_model = first_model(listed)
            limit.go_on()
            async with self._upstream.call(self._to_health, limit=limit) as response:
                # llama.cpp lists its model while it is still loading it. Others have no such path.
                if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
                    complaint = "it is not ready yet (/health answers with status 503)"
        if complaint and complaint != self._complaint:
            logger.warning("the model server cannot be used: %s", complaint)
        self._complaint = complaint
        return not complaint

    async def aclose(self) -> None:
        """Close every connection that is left; calls under way fail as `UpstreamUnavailable`."""
        await self._upstream.aclose()

    def _reply(self, say: Say) -> OpenAiReply:
        return OpenAiReply(say, max_chars=self._max_reply_chars)

    @asynccontextmanager
    async def _asked(
        self,
        messages: Sequence[PromptMessage],
        generation: Generation,
        *,
        limit: Limit,
        stream: bool,
    ) -> AsyncIterator[httpx.Response]:
        """Ask, in another dialect if need be; raises `UpstreamError` for a refusal."""
        model = self._model or self._found_model or await self._find_model(limit)
        dialect: Dialect | None = self._dialect
        while dialect is not None:
            body = self._body(messages, generation, dialect=dialect, model=model, stream=stream)
            async with self._upstream.call(
                self._to_chat, limit=limit, body=encode(body).encode()
            ) as response:
                if response.is_success:
                    self._speak(dialect)
                    yield response
                    return
                refusal = parse(await read(response, _REFUSAL_BYTES))
                status = response.status_code
            dialect = adapted(dialect, status, refusal)
            limit.go_on()
        if status == httpx.codes.NOT_FOUND:
            self._found_model = ""
        raise failure(status, refusal)

    def _speak(self, dialect: Dialect) -> None:
        """Keep to a dialect, now that it was understood."""
        if dialect != self._dialect:
            logger.warning("the model server does not take all that is usual, but %s", dialect)
            self._dialect = dialect

    async def _find_model(self, limit: Limit) -> str:
        status, listed = await self._get_models(Limit(min(limit.seconds, 10.0)))
        if status != httpx.codes.OK:
            raise failure(status, listed)
        self._found_model = first_model(listed)
        if not self._found_model:
            raise UpstreamFailed("the model server lists no model: LLM_MODEL has to name one")
        return self._found_model

    async def _get_models(self, limit: Limit) -> tuple[int, object]:
        async with self._upstream.call(self._to_models, limit=limit) as response:
            return response.status_code, parse(await read(response, HEALTH_BYTES))

    def _body(
        self,
        messages: Sequence[PromptMessage],
        generation: Generation,
        *,
        dialect: Dialect,
        model: str,
        stream: bool,
    ) -> dict[str, Any]:
        body = self._extra_body | {
            "model": model,
            "messages": [{"role": m.role, "content": m.content} for m in messages],
            dialect.limit: generation.max_new_tokens,
            "temperature": generation.temperature if generation.do_sample else 0,
            "stream": stream,
        }
        if stream and dialect.asks_usage:
            body["stream_options"] = {"include_usage": True}
        return body


def _root(url: httpx.URL) -> httpx.URL:
    """Leave out the `/v1` at the end, which some write and some do not."""
    path = url.raw_path.rstrip(b"/").removesuffix(b"/v1")
    return url.copy_with(raw_path=path or b"/")


def _complaint(status: int, listed: object, model: str) -> str:
    """Say why a server cannot be used; nothing if it can."""
    if status != httpx.codes.OK:
        return str(failure(status, None))
    return missing(listed, model)
