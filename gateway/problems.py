"""Errors over HTTP: `application/problem+json` (RFC 9457)."""

import math
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import as_refusal
from gateway.house import house_of
from protocol.errors import CATALOGUE, Refusal
from protocol.rest import Problem

# As RFC 9110 has them; Python's own table changed its words in 3.13.
_TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


def problem_response(
    refusal: Refusal, *, turn: int | None = None, message_id: str | None = None
) -> Response:
    """Say a refusal; `turn` and `message_id` are those of a turn that failed."""
    kind = CATALOGUE[refusal.code]
    problem = Problem(
        title=_title(kind.status),
        status=kind.status,
        detail=refusal.message,
        code=refusal.code,
        retryable=kind.retryable,
        retry_after_ms=refusal.retry_after_ms,
        turn=turn,
        message_id=message_id,
    )
    response = _response(problem)
    if refusal.retry_after_ms is not None:
        response.headers["Retry-After"] = str(math.ceil(refusal.retry_after_ms / 1000))
    if kind.status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"  # RFC 6750, section 3
    return response


def forbidden(detail: str) -> Response:
    """Say that somebody may not ask at all, from where they do."""
    return _response(
        Problem(
            title=_title(HTTPStatus.FORBIDDEN),
            status=HTTPStatus.FORBIDDEN,
            detail=detail,
            code="forbidden",
            retryable=False,
        )
    )


async def on_error(request: Request, error: Exception) -> Response:
    """Answer whatever an endpoint raised."""
    refusal = as_refusal(error)
    house_of(request).figures.refusals[refusal.code] += 1
    return problem_response(refusal)


async def on_client_gone(request: Request, error: Exception) -> Response:
    """Answer a client that left while its body was read: nobody will see it, and nobody erred."""
    return Response(status_code=400)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer what the router raised: an unknown path, a wrong method, a body too large."""
    assert isinstance(error, HTTPException)  # noqa: S101
    problem = Problem.model_validate(
        {
            "title": _title(error.status_code),
            "status": error.status_code,
            "detail": error.detail,
            "code": _CODES.get(error.status_code, "internal"),
            "retryable": False,
        }
    )
    response = _response(problem)
    response.headers.update(error.headers or {})
    return response


def _title(status: int) -> str:
    return _TITLES.get(status) or HTTPStatus(status).phrase


def _response(problem: Problem) -> Response:
    return Response(
        problem.model_dump_json(), problem.status, media_type="application/problem+json"
    )
