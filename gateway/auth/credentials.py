"""What somebody offers as proof, wherever in a request it is.

This is the one place that looks: if two did, they could differ in what they find.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from protocol.errors import ErrorCode, Refusal

MAX_TOKEN_CHARS = 4_096

SUBPROTOCOL = "bearer."
"""What a subprotocol begins with that carries a token: a page can send no header of its own."""

_SCHEME = re.compile(r"bearer +", re.IGNORECASE | re.ASCII)
# RFC 6750, section 2.1: b64token.
_B64TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
# Of those, what may be in a subprotocol: a token of RFC 7230, section 3.2.6.
_SUBPROTOCOL_TOKEN = re.compile(r"[A-Za-z0-9._~+-]+")
_TICKET = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Bearer:
    """A token or an API key: whoever bears it is whom it names."""

    token: str = field(repr=False)


@dataclass(frozen=True)
class Ticket:
    """What was issued to be used once, where no token may be: in a URL."""

    ticket: str = field(repr=False)


def credentials_of(
    *, authorization: str | None, subprotocols: Sequence[str], ticket: str | None
) -> Bearer | Ticket | None:
    """Find what a request offers: the header, else a subprotocol, else the ticket; None if nothing.

    What comes first decides: if that is malformed, the others are not looked at. Raises `Refusal`
    (`unauthorized`), which never holds any of it.
    """
    if authorization is not None:
        return _of_header(authorization)
    carry = [one for one in subprotocols if one.lower().startswith(SUBPROTOCOL)]
    tokens = [one[len(SUBPROTOCOL) :] for one in carry]
    if tokens:
        return _of_subprotocols(tokens)
    return None if ticket is None else _of_query(ticket)


def is_token(text: str) -> bool:
    """Whether a text could be offered as a token, or as a key, at all."""
    return _fits(text, _B64TOKEN)


def bearer(token: str) -> Bearer:
    """Take the token of an `auth` frame; raises `Refusal`, as `credentials_of` does."""
    if not is_token(token):
        raise _refusal("token: should be a token or an API key")
    return Bearer(token)


def _of_header(authorization: str) -> Bearer:
    scheme = _SCHEME.match(authorization)
    token = authorization[scheme.end() :].rstrip(" ") if scheme else ""
    if not is_token(token):
        raise _refusal("Authorization: should be Bearer and a token")
    return Bearer(token)


def _of_subprotocols(tokens: Sequence[str]) -> Bearer:
    # Of two, nobody could say which one counts.
    if len(tokens) > 1 or not _fits(tokens[0], _SUBPROTOCOL_TOKEN):
        raise _refusal(f"Sec-WebSocket-Protocol: should hold {SUBPROTOCOL} and a token, once")
    return Bearer(tokens[0])


def _of_query(ticket: str) -> Ticket:
    if not _fits(ticket, _TICKET):
        raise _refusal("ticket: should be one that was issued")
    return Ticket(ticket)


def _fits(token: str, shape: re.Pattern[str]) -> bool:
    return len(token) <= MAX_TOKEN_CHARS and shape.fullmatch(token) is not None


def _refusal(message: str) -> Refusal:
    return Refusal(ErrorCode.UNAUTHORIZED, message)
