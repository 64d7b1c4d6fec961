"""Who asks, and from where."""

from dataclasses import dataclass

from gateway.auth.principal import Principal
from storage.claims import Claim


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody at the other end of a connection.

    `address` is what limits count by (see `gateway.limits.addresses`); None is this machine.
    """

    principal: Principal
    address: str | None = None

    @property
    def account(self) -> str | None:
        """What the caller's share of things is counted on; None is not counted.

        Anonymous callers have nothing in common but a name, so each is its address.
        """
        if not self.principal.anonymous:
            return self.principal.name
        return f"address:{self.address}" if self.address is not None else None

    def claim(self, session_id: str) -> Claim:
        """Say that a session is the caller's; whether it is, the query decides."""
        return Claim(session_id, self.principal.owner)
