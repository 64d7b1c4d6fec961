"""A session as a file: written as it is read, a stretch at a time.

While a client takes its time nothing of the database is held: each stretch is a read of its own.
"""

import logging
import re
from collections.abc import AsyncGenerator, Sequence
from typing import Literal

from starlette.responses import ContentStream, StreamingResponse
from starlette.types import Send

from gateway.accepting import preferred
from gateway.caller import Caller
from gateway.errors import as_refusal
from gateway.house import House
from gateway.transcript import JSON_LINES, MARKDOWN, NDJSON, Form
from protocol.errors import Refusal
from storage import stretches
from storage.claims import Claim
from storage.operations import StorageError
from storage.placed import FIRST, Place
from storage.stretches import Extent

log = logging.getLogger(__name__)

_FORMATS = {"jsonl": JSON_LINES, "markdown": MARKDOWN}
_OFFERED = {form.media_type: form for form in (JSON_LINES, NDJSON, MARKDOWN)}
_UNSAFE = re.compile(r"[^A-Za-z0-9-]")
_NAME_CHARS = 64


class Export(StreamingResponse):
    """A response that is cut short where it cannot be finished: nobody takes a part for all."""

    def __init__(self, form: Form, session_id: str, parts: ContentStream) -> None:
        # The original let sessions have any name.
        name = _UNSAFE.sub("_", session_id[:_NAME_CHARS])
        disposition = f'attachment; filename="session-{name}.{form.extension}"'
        headers = {"Content-Disposition": disposition, "Vary": "Accept"}
        super().__init__(parts, headers=headers, media_type=form.media_type)

    async def stream_response(self, send: Send) -> None:
        """Send all of it; without the end, which the server then makes known, if that fails."""
        try:
            await super().stream_response(send)
        except (Refusal, StorageError) as error:
            log.warning("an export was cut short: %s", as_refusal(error).code)


def form_of(asked: Literal["jsonl", "markdown"] | None, accept: Sequence[str]) -> Form:
    """Choose the form that is asked for, by name or else by the `Accept` headers."""
    return _FORMATS[asked] if asked else _OFFERED[preferred([*_OFFERED], ",".join(accept))]


async def written(
    house: House, caller: Caller, claim: Claim, extent: Extent, form: Form
) -> AsyncGenerator[str, None]:
    """Write a session out, as it stood when the extent was settled.

    Raises `Refusal` (`session_not_found`, `unauthorized`) once the session is deleted, or whoever
    asked may not ask any more, and `StorageError`.
    """
    yield form.heading(claim.session_id)
    after: Place | None = FIRST
    while after is not None:
        house.entrance.check_rights(caller)
        stretch = await house.database.read(stretches.newer(claim, extent, after=after))
        yield form.written(stretch.messages)
        after = stretch.after
