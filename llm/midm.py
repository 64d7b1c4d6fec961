"""Driver for midm's own wire: `/chat`, `/chat/stream` and `/health` of its model server."""

import logging
from collections.abc import Sequence

import httpx

from llm.call import (
    HEALTH_BYTES,
    OVERLOADED,
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
    UpstreamFailed,
    UpstreamUnavailable,
)
from llm.midm_reply import MidmReply
from llm.reply import parse

logger = logging.getLogger(__name__)


class Midm:
    """The model server of midm at `base_url`, an http(s) address with or without a path.

    Each call has a connection of its own. Cancelling a call closes its connection before the
    cancellation goes on. `max_reply_chars` bounds a reply in Unicode code points; what came before
    it was exceeded has been said. The clock of `patience.first_token_s` starts with the call,
    connecting included; that of `patience.silence_s` is at most a tenth late. An `api_key` is for
    what stands in front of midm, which itself asks for none.

    Both calls raise ValueError for a prompt or settings that are known to freeze or confuse the
    server (no message, blank user text, nothing to generate, sampling at temperature zero …): who
    calls has validated earlier. Every other failure is an `UpstreamError`.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str = "",
        patience: Patience = Patience(),  # noqa: B008 - frozen
        max_reply_chars: int = 1_000_000,
    ) -> None:
        self._patience = patience
        self._max_reply_chars = max_reply_chars
        self._upstream = Upstream()
        url = server_url(base_url)
        self._to_stream, self._to_chat, self._to_health = (
            template(url, method, path, patience=patience, api_key=api_key)
            for method, path in (("POST", "/chat/stream"), ("POST", "/chat"), ("GET", "/health"))
        )

    async def stream(
        self, messages: Sequence[PromptMessage], generation: Generation, say: Say
    ) -> Ending:
        """Ask for a reply and hand its pieces to `say` as they arrive.

        Returns as soon as the server says that the reply is complete. Of usage midm tells nothing
        here, and `length` is inferred from the number of pieces, each of which is at least one
        token. Raises `UpstreamError`; what was said until then stands.
        """
        body = _body(messages, generation)
        reply = self._reply(say, generation)
        limit = Limit(self._patience.first_token_s)
        try:
            async with self._upstream.call(self._to_stream, limit=limit, body=body) as response:
                _require_ok(response)
                require_events(response)
                silence_s = self._patience.silence_s
                return await listen(response, reply=reply, limit=limit, silence_s=silence_s)
        finally:
            if reply.ignored:
                logger.warning("ignored %d events that made no sense", reply.ignored)

    async def complete(
        self, messages: Sequence[PromptMessage], generation: Generation, say: Say
    ) -> Ending:
        """Ask for a reply in one piece, handed to `say` once, unless it is empty.

        The whole answer has to be there within `patience.reply_s`. Raises `UpstreamError`.
        """
        body = _body(messages, generation)
        reply = self._reply(say, generation)
        limit = Limit(self._patience.reply_s)
        async with self._upstream.call(self._to_chat, limit=limit, body=body) as response:
            _require_ok(response)
            answer = await read(response, reply.max_bytes)
        return reply.hear_whole(parse(answer))

    async def healthy(self, *, timeout_s: float = 2.0) -> bool:
        """Whether the server says that its model is loaded.

        False as well for any answer that is not midm's. Raises `UpstreamTimeout` when none comes
        within `timeout_s` seconds (which may mean that the server is busy: generation blocks it),
        `UpstreamUnavailable` when nobody answers at all.
        """
        async with self._upstream.call(self._to_health, limit=Limit(timeout_s)) as response:
            if response.status_code != httpx.codes.OK:
                return False
            health = parse(await read(response, HEALTH_BYTES))
        # `status` is the constant "healthy"; only this field knows.
        return isinstance(health, dict) and health.get("model_loaded") is True

    async def aclose(self) -> None:
        """Close every connection that is left; calls under way fail as `UpstreamUnavailable`."""
        await self._upstream.aclose()

    def _reply(self, say: Say, generation: Generation) -> MidmReply:
        return MidmReply(
            say, max_new_tokens=generation.max_new_tokens, max_chars=self._max_reply_chars
        )


def _body(messages: Sequence[PromptMessage], generation: Generation) -> bytes:
    """Write the request; raise ValueError for what midm must never be sent."""
    require_sensible(messages, generation)
    request = {
        "messages": [{"role": m.role, "content": m.content} for m in messages],
        "max_new_tokens": generation.max_new_tokens,
        "temperature": generation.temperature,
        "do_sample": generation.do_sample,
    }
    return encode(request).encode()


def _require_ok(response: httpx.Response) -> None:
    status = response.status_code
    if response.is_success:
        return
    # Its words are not read: they may quote what a user has said, which no log is to hold.
    if status in OVERLOADED:
        raise UpstreamUnavailable(f"the model server answers with status {status}")
    raise UpstreamFailed(f"the model server answers with status {status}")
