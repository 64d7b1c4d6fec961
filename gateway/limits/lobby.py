"""How many TCP connections each address has that are no WebSockets yet, or never will be.

Whoever has sent no whole request has no seat, and could hold every file that the process may open.
"""

from ipaddress import ip_address

from gateway.limits.addresses import Proxies, address_of


class Lobby:
    """Who is there without a seat; 0 is no limit.

    A trusted proxy comes for many, and is not counted. For one event loop: nothing here waits.
    """

    def __init__(self, *, per_address: int, proxies: Proxies) -> None:
        self._most = per_address
        self._proxies = proxies
        self._here: dict[str, int] = {}

    def enter(self, peer: str | None) -> "Stay | None":
        """Let somebody in from the other end of a connection; None if there is no room."""
        address = self._counted(peer)
        if address is None:
            return Stay(self, None)
        here = self._here.get(address, 0)
        if 0 < self._most <= here:
            return None
        self._here[address] = here + 1
        return Stay(self, address)

    def _counted(self, peer: str | None) -> str | None:
        try:
            if peer is not None and ip_address(peer) in self._proxies:
                return None
        except ValueError:
            return None  # no address: a socket of this machine
        return address_of(peer, (), proxies=self._proxies)

    def _leave(self, address: str) -> None:
        self._here[address] -= 1
        if not self._here[address]:
            del self._here[address]


class Stay:
    """One connection's; made by `Lobby.enter`."""

    __slots__ = ("_address", "_lobby")

    def __init__(self, lobby: Lobby, address: str | None) -> None:
        self._lobby = lobby
        self._address = address

    def end(self) -> None:
        """Give the room back; twice is once."""
        if self._address is not None:
            self._lobby._leave(self._address)
            self._address = None
