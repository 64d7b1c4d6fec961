"""Bodies of HTTP: read and validated on the way in, written on the way out."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.house import house_of
from protocol.invalid import parse_json, refusal

M = TypeVar("M", bound=BaseModel)


async def read_body(request: Request, model: type[M]) -> M:
    """Read and validate a body; an empty one, or null, is an empty object.

    Raises `Refusal`, and `HTTPException` (413) for a body over the limit.
    """
    settings = house_of(request).settings
    limit = settings.max_body_bytes
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise HTTPException(413, f"The body is larger than {limit} bytes.")
        parts.append(part)
    data = b"".join(parts)
    given = parse_json(data, max_depth=settings.max_json_depth) if data.strip() else None
    return validated(model, given)


def validated(model: type[M], given: object) -> M:
    """Validate what was given, None as an empty object; raises `Refusal` (`bad_frame`)."""
    try:
        return model.model_validate({} if given is None else given)
    except ValidationError as error:
        raise refusal(error) from None


def json_response(body: BaseModel, status: int = 200) -> Response:
    """Write a model as JSON."""
    return Response(body.model_dump_json(), status, media_type="application/json")
