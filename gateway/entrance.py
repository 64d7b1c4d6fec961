"""Who comes in: from where, who they have proved to be, and whether there is room."""

from dataclasses import dataclass
from functools import partial

from starlette.requests import HTTPConnection

from gateway.auth.authenticator import Authenticator, Lapse
from gateway.auth.credentials import Bearer, Ticket, credentials_of
from gateway.auth.principal import Principal
from gateway.caller import Caller
from gateway.figures import Figures
from gateway.hosts import Hosts, host_of
from gateway.limits.addresses import Proxies, address_of
from gateway.limits.allowance import spend
from gateway.limits.buckets import Buckets, Rate
from gateway.limits.occupancy import Crowd, Full, Occupancy, Seat
from gateway.origins import Origins
from protocol.errors import ErrorCode, Refusal

COME_AGAIN_MS = 5_000
"""When whoever found no room is to try again."""


@dataclass(frozen=True)
class Entrance:
    """The one way in, for requests and for WebSockets."""

    authenticator: Authenticator
    origins: Origins
    hosts: Hosts
    proxies: Proxies
    occupancy: Occupancy
    buckets: Buckets
    handshakes: Rate
    sessions: Rate
    tickets: Rate
    figures: Figures

    def admits(self, connection: HTTPConnection) -> bool:
        """Whether a page, if it is one, may connect from where it was loaded."""
        host = host_of(connection.scope["headers"])
        if not self.hosts.allow(host):
            return False
        said = connection.headers.getlist("origin")
        return not said or (len(said) == 1 and self.origins.allow(said[0], host=host))

    def address(self, connection: HTTPConnection) -> str | None:
        """Say what address a connection is counted by; None is this machine."""
        peer = connection.client.host if connection.client else None
        forwarded = connection.headers.getlist("x-forwarded-for")
        return address_of(peer, forwarded, proxies=self.proxies)

    async def identify(
        self, connection: HTTPConnection, *, ticket: str | None = None
    ) -> Caller | None:
        """Say who has opened a connection; None if that is yet to be said.

        Raises `Refusal`: `unauthorized` for credentials that are not good.
        """
        found = self.found(connection, ticket)
        if found is None and self.authenticator.required:
            return None
        return Caller(await self.prove(found), self.address(connection))

    async def prove(self, found: Bearer | Ticket | None) -> Principal:
        """Say who offers these credentials; raises what `Authenticator.identify` does."""
        try:
            return await self.authenticator.identify(found)
        except Refusal as refusal:
            if refusal.code == ErrorCode.UNAUTHORIZED:
                self.figures.auth_failures += 1
            raise

    def has_yet_to_ask(self, connection: HTTPConnection, ticket: str | None) -> bool:
        """Whether a connection came without the credentials that it needs."""
        try:
            return self.authenticator.required and self.found(connection, ticket) is None
        except Refusal:
            return False  # they are no good, which is soon said

    def found(self, connection: HTTPConnection, ticket: str | None) -> Bearer | Ticket | None:
        """Find the credentials that a connection came with; raises `Refusal` (`unauthorized`)."""
        if not self.authenticator.configured:
            return None  # they may be meant for a proxy in front
        return credentials_of(
            authorization=authorization_of(connection),
            subprotocols=connection.scope.get("subprotocols", ()),
            ticket=ticket,
        )

    async def shake_hands(self, address: str | None) -> float:
        """Count a handshake; seconds to wait, 0.0 if it may go on."""
        if address is None:
            return 0.0
        return await self.buckets.take(f"handshakes:{address}", self.handshakes)

    async def open_session(self, caller: Caller) -> None:
        """Count a new session; raises `Refusal` (`rate_limited`)."""
        if caller.account is not None:
            await spend(self.buckets, f"sessions:{caller.account}", self.sessions)

    async def open_ticket(self, caller: Caller) -> None:
        """Count a ticket that is asked for; raises `Refusal` (`rate_limited`)."""
        if caller.account is not None:
            await spend(self.buckets, f"tickets:{caller.account}", self.tickets)

    def check_rights(self, caller: Caller) -> None:
        """Let a caller go on; raises `Refusal` (`unauthorized`) once its proof is none any more."""
        if why := self.authenticator.lapse(caller.principal):
            raise lapsed(why)

    def sit(self, caller: Caller) -> Seat:
        """Count a connection of somebody known, until its seat is left; raises `NoRoom`."""
        try:
            return self.occupancy.sit_as(_counted_name(caller), caller.address)
        except Full as full:
            raise NoRoom(full.limit) from None

    def take_seat(self, address: str | None, *, unknown: bool) -> Seat:
        """Count a connection before it is known whose it is; raises `NoRoom`.

        `unknown` if that is yet to be said: of those there is a limit of its own, so that who says
        nothing keeps nobody out who did.
        """
        try:
            sit = self.occupancy.sit if unknown else partial(self.occupancy.sit_as, None)
            return sit(address)
        except Full as full:
            raise NoRoom(full.limit) from None

    def know(self, seat: Seat, caller: Caller) -> None:
        """Count a connection as a caller's; raises `NoRoom`, and the seat is left."""
        try:
            seat.identify(_counted_name(caller))
        except Full as full:
            seat.leave()
            raise NoRoom(full.limit) from None


class NoRoom(Refusal):
    """Too many connections are open: in all, or of this caller's."""

    def __init__(self, limit: Crowd) -> None:
        self.whose = limit in ("address", "principal")
        """Whether it is this caller who has too many."""
        if self.whose:
            # No time to come again: that is when one of them is closed.
            text = "Too many connections of yours are open; close one first."
            super().__init__(ErrorCode.RATE_LIMITED, text)
        else:
            text = "Too many connections are open."
            super().__init__(ErrorCode.QUEUE_FULL, text, retry_after_ms=COME_AGAIN_MS)


def _counted_name(caller: Caller) -> str | None:
    return None if caller.principal.anonymous else caller.principal.name


def lapsed(why: Lapse) -> Refusal:
    """Say that somebody who was let in may not stay."""
    what = "have expired" if why == "expired" else "are not valid any more"
    return Refusal(ErrorCode.UNAUTHORIZED, f"The credentials that this began with {what}.")


def authorization_of(connection: HTTPConnection) -> str | None:
    """Find the `Authorization` of a connection; raises `Refusal` (`unauthorized`) if it has two."""
    headers = connection.headers.getlist("authorization")
    if len(headers) > 1:
        # Of two, nobody could say which one counts.
        raise Refusal(ErrorCode.UNAUTHORIZED, "Authorization: there should be one.")
    return headers[0] if headers else None
