"""Who somebody is, by the credentials offered, and for how long that holds."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from gateway.auth.api_keys import PREFIX, KeyRing
from gateway.auth.credentials import Bearer, Ticket
from gateway.auth.principal import Principal
from gateway.auth.tickets import Tickets
from protocol.errors import ErrorCode, Refusal

Lapse = Literal["expired", "revoked"]

ANONYMOUS = "anonymous"
_NOBODY = Principal(ANONYMOUS, None, "", None)


@dataclass(frozen=True)
class Proof:
    """What a token proves: who bears it, by which key of the issuer's, and until when."""

    subject: str
    key: str
    expires_at: float


class Verifier(Protocol):
    """Verifies tokens."""

    async def verify(self, token: str) -> Proof:
        """Verify a token; raises `Refusal`."""

    def stands(self, key: str) -> bool:
        """Whether a key may still prove anything."""


class Authenticator:
    """The schemes that are configured, taken together; `clock` tells seconds since 1970.

    Where there is none, everybody is anonymous and sees what belongs to nobody in particular. With
    one, nobody is, unless `allow_anonymous`. Of those that are named, the one whose name is
    `default_owner` sees what belongs to nobody in particular; who is anonymous does only if no
    other one is to.
    """

    def __init__(
        self,
        *,
        tickets: Tickets,
        keys: KeyRing | None = None,
        verifier: Verifier | None = None,
        allow_anonymous: bool = False,
        default_owner: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tickets = tickets
        self._keys = keys
        self._verifier = verifier
        self._allow_anonymous = allow_anonymous
        self._default_owner = default_owner or ANONYMOUS
        self._clock = clock

    @property
    def configured(self) -> bool:
        """Whether there is a way to prove who one is."""
        return self._keys is not None or self._verifier is not None

    @property
    def required(self) -> bool:
        """Whether one has to."""
        return self.configured and not self._allow_anonymous

    async def identify(self, found: Bearer | Ticket | None) -> Principal:
        """Say who offers these credentials.

        Raises `Refusal`: `unauthorized` if they are needed and not there, or there and no good,
        even where none are needed; `upstream_unavailable` if nobody can tell right now. Raises
        `BrokerAway` for a ticket that only Redis knows.
        """
        if not self.configured:
            return _NOBODY
        match found:
            case Bearer(token):
                return await self._proved(token)
            case Ticket(ticket):
                return await self._redeemed(ticket)
        if self.required:
            raise Refusal(ErrorCode.UNAUTHORIZED)
        return self._principal(ANONYMOUS)

    def lapse(self, principal: Principal) -> Lapse | None:
        """Say why somebody may be here no more, if so; at once, and asking nobody."""
        if principal.expires_at is not None and self._clock() >= principal.expires_at:
            return "expired"
        scheme, _, detail = principal.credential.partition(":")
        match scheme:
            case "":
                stands = True
            case "key":
                stands = self._keys is not None and self._keys.has(detail)
            case "jwt":
                stands = self._verifier is not None and self._verifier.stands(detail)
            case _:
                stands = False
        return None if stands else "revoked"

    async def issue(self, principal: Principal) -> str:
        """Make a ticket for somebody; raises `BrokerAway`.

        That of an anonymous caller is one word for all of them: it stands for nothing, and kept by
        the thousand such tickets would push out those that stand for something.
        """
        return ANONYMOUS if principal.anonymous else await self._tickets.issue(principal)

    async def _proved(self, token: str) -> Principal:
        # No token begins like a key: it would have to be JSON in base64, which begins with `ey`.
        if token.startswith(PREFIX):
            return self._of_key(token)
        if self._verifier is None:
            raise Refusal(ErrorCode.UNAUTHORIZED, "The token is not valid.")
        proof = await self._verifier.verify(token)
        return self._principal(f"jwt:{proof.subject}", f"jwt:{proof.key}", proof.expires_at)

    def _of_key(self, token: str) -> Principal:
        key = self._keys.find(token) if self._keys is not None else None
        if key is None:
            raise Refusal(ErrorCode.UNAUTHORIZED, "The API key is not valid.")
        return self._principal(f"key:{key.name}", f"key:{key.id}")

    async def _redeemed(self, ticket: str) -> Principal:
        if ticket == ANONYMOUS and not self.required:
            return self._principal(ANONYMOUS)
        principal = await self._tickets.redeem(ticket)
        if principal is None or self.lapse(principal) is not None:
            raise Refusal(ErrorCode.UNAUTHORIZED, "The ticket is not valid, or not any more.")
        return principal

    def _principal(
        self, name: str, credential: str = "", expires_at: float | None = None
    ) -> Principal:
        owner = None if name == self._default_owner else name
        return Principal(name, owner, credential, expires_at)
