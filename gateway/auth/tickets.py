"""Tickets: what a client trades its token for where only a URL can carry a credential."""

import hashlib
import secrets
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from gateway.auth.principal import Principal

TICKET_S = 30.0
MAX_TICKETS = 10_000

_TICKET_BYTES = 32


class Tickets(Protocol):
    """Keeps tickets until they are redeemed, which each of them can be once within `TICKET_S`."""

    async def issue(self, principal: Principal) -> str:
        """Make a ticket that stands for a principal; it holds characters of base64url alone."""

    async def redeem(self, ticket: str) -> Principal | None:
        """Use a ticket up; None if there is none, or not any more."""


def new_ticket() -> str:
    """Make a ticket that nobody can guess."""
    return secrets.token_urlsafe(_TICKET_BYTES)


def digest_of(ticket: str) -> str:
    """Say what a ticket is kept as: who reads what is kept cannot use it."""
    return hashlib.sha256(ticket.encode()).hexdigest()


class _Kept(NamedTuple):
    principal: Principal
    until: float


class MemoryTickets:
    """The tickets of a gateway that is alone; `clock` tells seconds and is never set back.

    There are at most 10,000: one more, and the oldest is worth nothing any more.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # By their digests, the oldest first; all last equally long.
        self._kept: dict[str, _Kept] = {}

    async def issue(self, principal: Principal) -> str:
        """Make a ticket."""
        self._make_room()
        ticket = new_ticket()
        self._kept[digest_of(ticket)] = _Kept(principal, self._clock() + TICKET_S)
        return ticket

    async def redeem(self, ticket: str) -> Principal | None:
        """Use a ticket up."""
        kept = self._kept.pop(digest_of(ticket), None)
        return kept.principal if kept and self._clock() < kept.until else None

    def _make_room(self) -> None:
        now = self._clock()
        while self._kept:
            oldest = next(iter(self._kept))
            if len(self._kept) < MAX_TICKETS and now < self._kept[oldest].until:
                return
            del self._kept[oldest]
