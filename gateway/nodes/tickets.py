"""Tickets that every node takes, whichever of them issued it.

P:ticket:{digest}   the principal that a ticket stands for, for as long as it does
"""

from gateway.auth.principal import Principal, dump, load
from gateway.auth.tickets import TICKET_S, digest_of, new_ticket
from gateway.nodes.asking import Script
from gateway.nodes.link import Link

_ISSUE = Script("issue", "return redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])")

# One step: of many that redeem the same ticket one gets it.
_REDEEM = Script("redeem", "return redis.call('GETDEL', KEYS[1])")


class RedisTickets:
    """The tickets of all nodes; what it asks raises `BrokerAway`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def issue(self, principal: Principal) -> str:
        """Make a ticket."""
        ticket = new_ticket()
        lasts_ms = round(TICKET_S * 1000)
        await self._link.run(_ISSUE, [self._key(ticket)], [dump(principal), lasts_ms])
        return ticket

    async def redeem(self, ticket: str) -> Principal | None:
        """Use a ticket up; it is, even if the answer is lost on its way."""
        kept = await self._link.run(_REDEEM, [self._key(ticket)], [])
        try:
            return load(kept) if kept else None
        except ValueError:  # a node of another release wrote it
            return None

    def _key(self, ticket: str) -> str:
        return self._link.key(f"ticket:{{{digest_of(ticket)}}}")
